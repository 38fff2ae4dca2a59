"""What every head of a model does, in a few numbers: a table of them, to sort and to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from regard.look.checks import check_tokens, integers_of, whole
from regard.look.dense import layered
from regard.look.margins import HeadScores, layer_margins, without_first

__all__ = ["SCORES", "HeadScores", "HeadTable", "head_table", "same_tokens"]

#: The scores that a table can be sorted by.
SCORES = tuple(field.name for field in fields(HeadScores) if field.name not in ("layer", "head", "top_key"))

# The scores of which the low end is the telling one.
_LOW_FIRST = ("entropy",)


@dataclass(frozen=True)
class HeadTable:
    """The scores of all heads, with the margins they were taken from.

    Attributes:
        heads: the scores, by layer and head unless sorted.
        tokens: the tokens as text, or None.
        entropy: a layer each, (H, L): the entropy of every query, in nats.
        received: a layer each, (H, S): the weight that every key receives, summed over the queries.
        names: what the layers are called, where they are not called "layer 0" and so on.
    """

    heads: tuple[HeadScores, ...]
    tokens: tuple[str, ...] | None
    entropy: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None

    def sort(self, by: str = "induction") -> HeadTable:
        """The same table, the most telling head by one score first.

        Args:
            by: "layer" or one of SCORES; entropy puts the lowest first, the others the highest; NaN comes last.

        Returns:
            A new table.

        Raises:
            ValueError: if there is no such score.
        """
        if by == "layer":
            return self._with(sorted(self.heads, key=lambda scores: (scores.layer, scores.head)))
        if by not in SCORES:
            raise ValueError(f"by is {by!r}; expected 'layer' or one of {', '.join(map(repr, SCORES))}")
        sign = 1.0 if by in _LOW_FIRST else -1.0
        return self._with(sorted(self.heads, key=lambda scores: _last_if_nan(sign * float(getattr(scores, by)))))

    def where_to_look(self) -> list[str]:
        """The most telling heads and tokens, a plain sentence each."""
        from regard.look.guide import where_to_look

        return where_to_look(self)

    def _with(self, heads: Sequence[HeadScores]) -> HeadTable:
        return replace(self, heads=tuple(heads))

    def __rich__(self) -> Any:
        from regard.look.terminal import table

        return table(self)

    def _repr_mimebundle_(self, include: Sequence[str] = (), exclude: Sequence[str] = (), **options: Any) -> Any:
        return self.__rich__()._repr_mimebundle_(include, exclude, **options)


def head_table(
    weights: Any,
    *,
    token_ids: Tensor | Sequence[int] | None = None,
    tokens: Sequence[str] | None = None,
    batch: int = 0,
    hide_first: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> HeadTable:
    """Scores every head of every layer.

    Example:
        >>> import torch
        >>> from regard import attention, masks
        >>> from regard.look import head_table
        >>> q, k, v = torch.randn(3, 1, 2, 6, 4)  # B 1, H 2, L 6, D 4
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> table = head_table([weights], token_ids=[7, 8, 9, 7, 8, 9])
        >>> [(scores.layer, scores.head) for scores in table.heads]
        [(0, 0), (0, 1)]

    Args:
        weights: one AttentionWeights, dense tensor or array a layer, each (B, H, L, S), (H, L, S) or (L, S); a layer by
            itself; or what ``regard.watch`` gave.
        token_ids: (S,) integers, needed for the induction score; without them the tokens' text decides what is the
            same.
        tokens: S texts, used in the sentences of `where_to_look`.
        batch: which sequence of a batch.
        hide_first: leave key 0 out, which many heads rest on, and renormalise what is left of each query, as the
            figures do: w / (1 - w_0). A query that has nothing left is in no mean. first_token is then NaN; received,
            and with it concentration, is that of the other keys as it is.
        progress: called with (layers done, layers in all).

    Returns:
        The table.

    Raises:
        TypeError: if weights, tokens or token_ids are none of these.
        ValueError: if weights is empty, or tokens or token_ids are not one a key.
    """
    layers = layered(weights)
    batch = whole("batch", batch, "the number of one sequence, from 0", least=0)
    ids = same_tokens(token_ids, tokens, layers[0].shape[-1])
    found = []
    for number, layer in enumerate(layers):
        margins = layer_margins(layer, number, ids, batch=batch)[0]
        found.append(without_first(margins) if hide_first else margins)
        if progress is not None:
            progress(number + 1, len(layers))
    return HeadTable(
        tuple(scores for margins in found for scores in margins.scores),
        None if tokens is None else tuple(tokens),
        tuple(margins.entropy for margins in found),
        tuple(margins.received for margins in found),
    )


def same_tokens(token_ids: Tensor | Sequence[int] | None, tokens: Sequence[str] | None, key_len: int) -> Tensor | None:
    """The tokens as integers, equal where the tokens are."""
    ids = None if token_ids is None else integers_of(token_ids, "token_ids")
    if tokens is not None:
        check_tokens("tokens", tokens)
    for name, given in (("token_ids", ids), ("tokens", tokens)):
        if given is not None and len(given) != key_len:
            raise ValueError(f"{name} holds {len(given)} entries, but weights has {key_len} keys; expected one a key")
    if ids is not None or tokens is None:
        return ids
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(token, len(numbers)) for token in tokens])


def _last_if_nan(value: float) -> tuple[bool, float]:
    return math.isnan(value), value
