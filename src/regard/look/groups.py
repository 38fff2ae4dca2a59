"""Sorts what is to be shown into groups: the tabs that were asked for, and in each the layers of one (L, S)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.look.checks import check_tokens, integers_of
from regard.look.dense import as_tensor, wrapped
from regard.look.heads import same_tokens
from regard.look.readable import readable

# What Hugging Face calls the weights in a model's output, and the tabs they become.
_OUTPUTS = {"attentions": "", "encoder_attentions": "encoder", "decoder_attentions": "decoder"}
_OUTPUTS |= {"cross_attentions": "cross"}


@dataclass(frozen=True)
class Shown:
    """Layers of one (L, S) that are shown together.

    Attributes:
        name: of the tab; "" where it is the only one.
        names: of the layers.
        layers: AttentionWeights or DenseWeights.
        query_tokens: L texts, or None.
        key_tokens: S texts, or None.
        same: (S,) integers that say which tokens are the same, or None.
        shift: S - L where the queries are the last of the keys, None where they are another text.
        untold: tokens were given, and none of them are those of its keys.
    """

    name: str
    names: tuple[str, ...]
    layers: tuple[Any, ...]
    query_tokens: tuple[str, ...] | None
    key_tokens: tuple[str, ...] | None
    same: Tensor | None
    shift: int | None
    untold: bool = False

    @property
    def query_len(self) -> int:
        """L."""
        return int(self.layers[0].shape[-2])

    @property
    def key_len(self) -> int:
        """S."""
        return int(self.layers[0].shape[-1])


def grouped(
    weights: Any, *, tokens: Any = None, query_tokens: Any = None, token_ids: Any = None, mask: Any = None
) -> list[Shown]:
    """The groups of some weights, in their order.

    A tab whose layers differ in (L, S) becomes several groups, each named by its shape. Queries are taken for the last
    of the keys, unless query_tokens are given for them, the tab's name holds "cross", or there are more of them than
    keys.

    Args:
        weights: as `measure` takes them.
        tokens: likewise.
        query_tokens: likewise.
        token_ids: likewise.
        mask: likewise; or a mapping of the tabs' names to masks.

    Returns:
        At least one.

    Raises:
        TypeError: something that is not weights, or not tokens.
        ValueError: nothing to show, or tokens that do not fit.
    """
    found: list[tuple[str, list[tuple[str, Any]]]] = []
    tabs = _tabs(weights)
    for tab, layers in tabs:
        masked = mask.get(tab) if isinstance(mask, Mapping) else mask
        told = [name if tab == "" else f"{tab}: {name}" for name, _ in layers]
        asked = wrapped([layer for _, layer in layers], told, masked)
        shapes: dict[tuple[int, int], list[tuple[str, Any]]] = {}
        for (name, _), layer in zip(layers, asked, strict=True):
            shapes.setdefault((layer.shape[-2], layer.shape[-1]), []).append((name, layer))
        for (query_len, key_len), some in shapes.items():
            name = tab if len(shapes) == 1 else f"{tab} {query_len} x {key_len}".strip()
            found.append((name, some))
    names = {name for name, _ in found} | {tab for tab, _ in tabs}
    for what, given in (("tokens", tokens), ("query_tokens", query_tokens), ("token_ids", token_ids), ("mask", mask)):
        _check_names(what, given, names)
    return [_shown(name, some, found, tokens, query_tokens, token_ids) for name, some in found]


def _shown(
    name: str,
    layers: list[tuple[str, Any]],
    everything: list[tuple[str, list[tuple[str, Any]]]],
    tokens: Any,
    query_tokens: Any,
    token_ids: Any,
) -> Shown:
    query_len, key_len = layers[0][1].shape[-2:]
    cross = "cross" in name.lower()
    sides = {side: {each[0][1].shape[-2 if side == "L" else -1] for _, each in everything} for side in "LS"}
    keys = _for_group("tokens", tokens, name, key_len, sides["S"], "encoder" if cross else None)
    ids = _for_group("token_ids", token_ids, name, key_len, sides["S"], "encoder" if cross else None)
    own = _for_group("query_tokens", query_tokens, name, query_len, sides["L"], None)
    if own is not None and not isinstance(query_tokens, Mapping) and len(everything) > 1:
        crossed = any("cross" in each.lower() for each, _ in everything)
        own = own if (cross if crossed else query_len != key_len) else None
    if own is None and cross and isinstance(tokens, Mapping):
        own = _for_group("tokens", tokens, "decoder", query_len, {query_len}, None, optional=True)
    shift = None if own is not None or cross or query_len > key_len else int(key_len - query_len)
    same = same_tokens(ids, keys, key_len)
    key_tokens = None if keys is None else tuple(readable(keys))
    queries = None if own is None else tuple(readable(own))
    if queries is None and key_tokens is not None and shift is not None:
        queries = key_tokens[shift:]
    return Shown(
        name=name,
        names=tuple(each for each, _ in layers),
        layers=tuple(layer for _, layer in layers),
        query_tokens=queries,
        key_tokens=key_tokens,
        same=same,
        shift=shift,
        untold=tokens is not None and keys is None,
    )


def _tabs(weights: Any) -> list[tuple[str, list[tuple[str, Any]]]]:
    """(name, layers) a tab, each layer with its name; nothing is looked at yet."""
    if isinstance(weights, Mapping):
        known = [key for key in _OUTPUTS if key in weights]  # the order of the tabs, which no model's output has
        # Encoders of Hugging Face return an empty cross_attentions beside their own.
        outputs = {key: weights[key] for key in known if weights[key] is not None and len(weights[key])}
        if not outputs and (known or "logits" in weights or "last_hidden_state" in weights):
            raise ValueError(
                "weights is a model's output without attentions; pass output_attentions=True to a model loaded "
                'with attn_implementation="eager", or run the model inside regard.watch(model)'
            )
        if outputs:
            only = len(outputs) == 1
            return [("" if only else _OUTPUTS[key], _layers(value, key)) for key, value in outputs.items()]
        if not weights:
            raise ValueError("weights is empty; expected one AttentionWeights a layer")
        return [(str(name), _layers(value, f"weights[{name!r}]")) for name, value in weights.items()]
    return [("", _layers(weights, "weights"))]


def _layers(given: Any, name: str) -> list[tuple[str, Any]]:
    """The layers of one tab, each with its name."""
    if isinstance(given, Mapping):
        pairs = [(str(key), value) for key, value in given.items()]
    elif hasattr(given, "ask"):
        pairs = [("layer 0", given)]
    elif isinstance(given, Tensor) or hasattr(given, "__array__"):
        tensor = as_tensor(given, name)
        # A stack of layers, (layers, B, H, L, S).
        pairs = [(f"layer {n}", each) for n, each in enumerate(tensor if tensor.ndim == 5 else [tensor])]
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        pairs = [(getattr(each, "name", None) or f"layer {n}", each) for n, each in enumerate(given)]
    else:
        raise TypeError(
            f"{name} is of type {type(given).__name__}; expected AttentionWeights or dense tensors, a layer or a list "
            "of them, or a mapping of names to lists"
        )
    if not pairs:
        raise ValueError(f"{name} is empty; expected one AttentionWeights a layer")
    for number, (_, value) in enumerate(pairs):
        if isinstance(value, list | tuple):
            raise TypeError(
                f"{name}[{number}] is a {type(value).__name__}; expected one layer's weights. Of a generation, "
                f"which has such a list a step, pass one step: {name}[0], or run generate() inside "
                "regard.watch(model), which joins them; for tabs, pass a mapping of names to lists"
            )
    return [(layer_name, getattr(value, "weights", value)) for layer_name, value in pairs]


def _check_names(what: str, given: Any, names: set[str]) -> None:
    """A mapping names tabs that there are."""
    if not isinstance(given, Mapping):
        return
    for name in given:
        if names == {""}:
            raise ValueError(
                f"{what} is a mapping, but weights is one group without a name; pass its entry by itself, as in "
                f"{what}=given[{name!r}]"
            )
        if name not in names:
            raise ValueError(
                f"{what} has {name!r}, which weights has not; expected {', '.join(map(repr, sorted(names)))}"
            )


def _for_group(
    what: str, given: Any, name: str, length: int, lengths: set[int], stand_in: str | None, *, optional: bool = False
) -> Any:
    """What was given for one group: a mapping's entry, or a sequence if its length is the group's.

    A sequence that fits one group is no mistake for the others; one that fits none is.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        tab = name if name in given else name.rsplit(" ", 3)[0]  # "encoder 12 x 12" is part of "encoder"
        found = given.get(tab)
        if found is None and stand_in is not None:
            found = given.get(stand_in)
            optional = True
        if found is None:
            return None
        _check_tokens(what, found)
        if len(found) != length:
            if optional or tab != name:
                return None
            raise ValueError(_wrong_length(f"{what}[{name!r}]", what, len(found), length))
        return found
    _check_tokens(what, given)
    if len(given) == length:
        return given
    if len(given) in lengths:
        return None
    raise ValueError(_wrong_length(what, what, len(given), length))


def _wrong_length(told: str, what: str, got: int, length: int) -> str:
    kind = ("query", "queries") if what == "query_tokens" else ("key", "keys")
    return f"{told} holds {got} entries, but weights has {length} {kind[1]}; expected one a {kind[0]}"


def _check_tokens(what: str, given: Any) -> None:
    if what == "token_ids":
        integers_of(given, what)
    else:
        check_tokens(what, given)
