"""A Hugging Face model of text, watched while it reads: its tokens, its context, the weights of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard.look.hub import quietly, short
from regard.look.models import Attended, Encoded, Progress
from regard.look.pieces import pieces
from regard.look.wording import one_line

if TYPE_CHECKING:
    from regard.watch import Record

__all__ = ["HuggingFaceModel"]

#: What modules of learned positions are called.
POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")

#: Above this, a tokenizer's model_max_length means that it has none.
NO_LIMIT = 10**9


class HuggingFaceModel:
    """A model and its tokenizer; of an encoder and a decoder it is the encoder that is looked at."""

    def __init__(self, name: str, model: nn.Module, tokenizer: Any) -> None:
        self.title = name
        self.num_layers: int | None = None  # known when they have attended
        self.num_heads: int | None = None
        self._tokenizer = tokenizer
        config: Any = model.config
        self._notes: list[str] = []
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()  # type: ignore[operator]
            self._notes.append("the encoder's self-attention; the decoder did not run")
        elif hasattr(config, "use_cache"):
            config.use_cache = False
        self._model = model
        self._positions = _position_table(model)
        limits = {"its positions": _positions_of(config, self._positions), "its tokenizer": _length_of(tokenizer)}
        known = {what: limit for what, limit in limits.items() if limit is not None}
        self.context: int | None = min(known.values(), default=None)
        self._limited_by = min(known, key=lambda what: known[what], default="")

    def limit(self, max_tokens: int | None) -> int | None:
        """The most tokens that the user wants and the model takes."""
        if max_tokens is None or self.context is None:
            return max_tokens if self.context is None else self.context
        if max_tokens > self.context:
            raise ValueError(
                f"--max-tokens is {max_tokens:,}, but the model takes {self.context:,} ({self._limited_by} "
                f"end{'' if self._limited_by.endswith('positions') else 's'} there); expected 1 to {self.context:,}"
            )
        return max_tokens

    def encode(self, text: str, limit: int | None) -> Encoded:
        """The first tokens of a text, with those that the tokenizer adds around it."""
        fast = bool(getattr(self._tokenizer, "is_fast", False))

        def tokens_of(**options: Any) -> Any:
            try:
                with quietly():
                    return self._tokenizer(text, return_offsets_mapping=fast, verbose=False, **options)
            except Exception as error:  # such as a word outside a vocabulary that has no token for unknown ones
                raise ValueError(
                    f"--model is {self.title!r}, whose tokenizer cannot read this text ({short(error)}); expected a "
                    "text that it knows"
                ) from error

        found = tokens_of()
        total = len(found["input_ids"])
        added = self._tokenizer.num_special_tokens_to_add()
        if total <= added:
            raise ValueError("the model's tokenizer makes no tokens of this text; expected a text that it knows")
        if limit is not None and total > limit:
            if limit <= added:
                raise ValueError(
                    f"--max-tokens is {limit}, but the tokenizer adds {added} of its own; expected at least {added + 1}"
                )
            self._tokenizer.truncation_side = "right"
            found = tokens_of(truncation=True, max_length=limit)
        ids = list(found["input_ids"])
        self._check_ids(ids)
        offsets = found["offset_mapping"] if fast else None
        return Encoded(ids, pieces(self._tokenizer, ids, text, offsets), total)

    def _check_ids(self, ids: list[int]) -> None:
        embeddings = self._model.get_input_embeddings()  # type: ignore[operator]
        count = getattr(embeddings, "num_embeddings", None)
        if count is not None and max(ids) >= count:
            raise ValueError(
                f"--model is {self.title!r}, whose tokenizer gives token {max(ids):,} and whose embeddings are "
                f"{count:,}; expected a tokenizer of this model"
            )

    def attend(self, ids: list[int], progress: Progress) -> Attended:
        """The weights of every layer that attends from the text's tokens to the text's tokens."""
        from regard import watch

        try:
            with torch.no_grad(), quietly(), _layers_counted(self._model, progress), watch(self._model) as seen:
                self._model(input_ids=torch.tensor([ids]))
        except watch.NoAttentionSeen as error:
            by_hand = f"{_listed(seen.unseen)} compute a softmax by hand and " if seen.unseen else "its modules "
            raise ValueError(
                f"--model is {self.title!r}, whose attention cannot be seen: {by_hand}call no attention function of "
                "PyTorch or transformers; expected another kind of model"
            ) from error
        except Exception as error:
            raise ValueError(
                f"--model is {self.title!r}, which cannot run on text alone: {short(error)}; watch it in a program of "
                "yours, with regard.watch(model)"
            ) from error
        square = [record for record in seen if _reads_text(record, len(ids))]
        if not square:
            shapes = ", ".join(sorted({str(tuple(record.shape)) for record in seen}))
            raise ValueError(
                f"--model is {self.title!r}, none of whose attention is from the {len(ids):,} tokens to themselves, "
                f"but of shapes {shapes}; watch it in a program of yours, with regard.watch(model)"
            )
        notes = [*self._notes, *_numbering(square)]
        if len(square) < len(seen):
            left_out = list(dict.fromkeys(record.name for record in seen if record not in square))
            notes.append(f"left out, since they attend to something else: {_listed(left_out)}")
        if seen.unseen:
            notes.append(f"not seen, since they compute their softmax by hand: {_listed(seen.unseen)}")
        return Attended([record.weights for record in square], notes)

    def positional_encoding(self, length: int) -> Tensor | None:
        """Its learned positions, (length, d_model); None for a model that turns or biases instead."""
        if self._positions is None:
            return None
        table, offset = self._positions
        return table.weight[offset : offset + length].detach()


def _position_table(model: nn.Module) -> tuple[nn.Embedding, int] | None:
    """The learned positions, and the row of the first: some keep a row for padding, or two for nothing."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            offset = getattr(module, "offset", None)
            padding = module.padding_idx
            return module, offset if isinstance(offset, int) else 0 if padding is None else padding + 1
    return None


def _positions_of(config: Any, table: tuple[nn.Embedding, int] | None) -> int | None:
    said = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [said] if isinstance(said, int) and said > 0 else []
    if table is not None:
        limits.append(table[0].num_embeddings - table[1])
    return min(limits, default=None)


def _length_of(tokenizer: Any) -> int | None:
    length = tokenizer.model_max_length
    return int(length) if length is not None and 0 < length < NO_LIMIT else None


def _reads_text(record: Record, length: int) -> bool:
    """Whether it is one sequence of L queries that reads as many keys."""
    return tuple(record.shape[-2:]) == (length, length) and len(record.shape) == 4 and record.shape[0] == 1


def _numbering(records: list[Record]) -> list[str]:
    """What the numbers of the layers stand for, where the names of the modules have others."""
    names = [record.name for record in records]
    if all(str(number) in name.split(".") for number, name in enumerate(names)):
        return []
    if len(names) > 1 and len(set(names)) == 1:
        return [f"every layer is a call of {one_line(names[0])}"]
    return [f"layers in the order in which they attend: {_listed([f'{n} is {name}' for n, name in enumerate(names)])}"]


def _listed(names: list[str], most: int = 6) -> str:
    listed = ", ".join(map(one_line, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


@contextmanager
def _layers_counted(model: nn.Module, progress: Progress) -> Iterator[None]:
    """Progress after each layer of the forward, where the layers can be told: one list of as many modules."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)  # type: ignore[union-attr, operator]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    done = 0

    def after(*_: Any) -> None:
        nonlocal done
        done = min(done + 1, len(lists[0]))
        progress(done, len(lists[0]))

    hooks = [layer.register_forward_hook(after) for layer in lists[0]] if lists else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
