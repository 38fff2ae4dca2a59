"""The mask functions of transformers, read as masks: ``and_masks(sliding_window_overlay(512), causal)`` is window(512).

A mask function answers for one query and one key. What it was made by, and from which numbers, is in its code and its
closure. What a function is taken for is compared once with what it answers, so that a transformers which defines one of
them otherwise is noticed, and its functions are asked entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import and_, or_
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from regard import masks

__all__ = ["Place", "Unread", "rule_of"]

# The overlays that only compare positions: in a packed sequence they hold within each text as they are.
_OF_POSITIONS = ("causal_mask_function", "bidirectional_mask_function", "sliding_window_overlay",
                 "sliding_window_bidirectional_overlay")  # fmt: skip


class Unread(Exception):
    """A mask function that is not known."""


@dataclass(frozen=True)
class Place:
    """Where the queries and keys of a call stand: query i at ``q_offset + i``, key j at ``kv_offset + j``."""

    batch: int
    query_len: int
    key_len: int
    q_offset: int
    kv_offset: int
    device: torch.device

    @property
    def shift(self) -> int:
        """The place of query 0 among the keys."""
        return self.q_offset - self.kv_offset

    @property
    def aligned(self) -> bool:
        """Whether the last query stands at the last key, which is where regard's masks put it."""
        return self.shift == self.key_len - self.query_len

    def of_keys(self, given: Tensor) -> Tensor:
        """What a tensor (B, positions) holds for the keys of this call, (B, S)."""
        if given.shape[-1] < self.kv_offset + self.key_len:
            raise Unread("a tensor that ends before the keys do")
        return given[:, self.kv_offset : self.kv_offset + self.key_len]


@dataclass(frozen=True)
class _Part:
    """A mask function by the name of what made it, and the variables that it closes over."""

    kind: str
    given: dict[str, Any]


def rule_of(function: Callable[..., Any], place: Place) -> masks.Mask | None:
    """The mask that a mask function describes at a place; None where everything may be read.

    Raises:
        Unread: the function, or a part of it, is not one that is known to mean what it says.
    """
    return _Reading(_known(), place).rule(function)


@lru_cache(maxsize=1)
def _known() -> Mapping[CodeType, str]:
    """By the code of the functions that transformers makes, the name of what makes them: those that are understood."""
    from transformers import masking_utils as hf

    found: dict[CodeType, str] = {}
    causal, ids = hf.causal_mask_function, torch.tensor([[0, 0, 1, 1, 1, -1, -1]])
    packed, positions = torch.tensor([[0, 0, 1, 1, 1, 1, 2]]), torch.tensor([[0, 1, 0, 1, 2, 3, 0]])
    # What makes each, from what, and the function to compare: some mean something beside others alone.
    examples: list[tuple[str, tuple[Any, ...], Callable[[Any], Any]]] = [
        ("causal_mask_function", (), lambda made: made),
        ("bidirectional_mask_function", (), lambda made: made),
        ("sliding_window_overlay", (3,), lambda made: made),
        ("sliding_window_bidirectional_overlay", (2,), lambda made: made),
        ("chunked_overlay", (3, torch.tensor([1])), lambda made: made),
        ("blockwise_overlay", (ids,), lambda made: made),
        ("padding_mask_function", (ids >= 0,), lambda made: made),
        ("packed_sequence_mask_function", (packed,), lambda made: made),
        ("and_masks", (causal, hf.sliding_window_overlay(2)), lambda made: made),
        ("or_masks", (causal, hf.blockwise_overlay(ids)), lambda made: made),
        ("remap_positions_for_packed_sequence", (hf.sliding_window_causal_mask_function(2), positions),
         lambda made: hf.and_masks(hf.packed_sequence_mask_function(packed), made)),
    ]  # fmt: skip
    for name, arguments, compared in examples:
        factory = getattr(hf, name, None)
        if factory is not None:
            made = factory(*arguments) if arguments else factory
            if _agrees(compared(made), {**found, made.__code__: name}):
                found[made.__code__] = name
    return found


def _agrees(function: Callable[..., Any], known: Mapping[CodeType, str]) -> bool:
    """Whether a function answers what it is read as: for a whole text, a step of decoding, and a cache with room."""
    for query_len, q_offset, key_len, kv_offset in ((7, 0, 7, 0), (2, 5, 7, 0), (2, 3, 7, 0), (2, 5, 4, 3)):
        place = Place(1, query_len, key_len, q_offset, kv_offset, torch.device("cpu"))
        q, kv = torch.arange(query_len) + q_offset, torch.arange(key_len) + kv_offset
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long)
        try:
            answer = function(zero, zero, q.view(1, 1, -1, 1), kv.view(1, 1, 1, -1))  # broadcasts to (1, 1, L, S)
            rule = _Reading(known, place).rule(function)
        except Unread:
            continue  # asked entry by entry at this place
        except Exception:
            return False  # called otherwise than it was written for
        read = True if rule is None else rule.to_dense(query_len, key_len, batch=1, num_heads=1)
        if not bool((answer == read).all()):
            return False
    return True


class _Reading:
    """Mask functions read at one place."""

    def __init__(self, known: Mapping[CodeType, str], place: Place) -> None:
        self.known = known
        self.place = place

    def rule(self, function: Callable[..., Any]) -> masks.Mask | None:
        parts = self.parts(function)
        kinds = [part.kind for part in parts]
        rules: list[masks.Mask] = []
        # A causal window is one mask of regard's, if the queries are the last of the keys.
        windows = [part.given["sliding_window"] for part in parts if part.kind == "sliding_window_overlay"]
        # A window of no keys is made by models that never use it.
        if self.place.aligned and "causal_mask_function" in kinds and windows and min(windows) >= 1:
            rules.append(masks.window(min(windows)))
            parts = [part for part in parts if part.kind not in ("causal_mask_function", "sliding_window_overlay")]
        rules += [rule for part in parts if (rule := self.made(part)) is not None]
        return reduce(and_, rules) if rules else None

    def parts(self, function: Callable[..., Any]) -> list[_Part]:
        """The functions that all must allow an entry."""
        code: CodeType | None = getattr(function, "__code__", None)
        if code is None or code not in self.known:
            raise Unread(getattr(function, "__qualname__", repr(function)))
        cells = getattr(function, "__closure__", None) or ()
        part = _Part(self.known[code], {n: c.cell_contents for n, c in zip(code.co_freevars, cells, strict=True)})
        if part.kind != "and_masks":
            return [part]
        found = [each for inner in part.given["mask_functions"] for each in self.parts(inner)]
        return [each for inner in found for each in self.unpacked(inner, found)]

    def unpacked(self, part: _Part, beside: list[_Part]) -> list[_Part]:
        """A function of positions that begin anew with each packed text, as one of the whole sequence."""
        if part.kind != "remap_positions_for_packed_sequence":
            return [part]
        positions = part.given["position_ids"]
        texts = [each.given["packed_sequence_mask"] for each in beside if each.kind == "packed_sequence_mask_function"]
        inner = self.parts(part.given["mask_function"])
        follows = positions.diff(dim=-1) == 1
        if not texts or any(each.kind not in _OF_POSITIONS for each in inner):
            raise Unread("positions of packed texts, in a function that is not one of distances")
        if not bool((follows | (texts[0].diff(dim=-1) != 0)).all()):
            raise Unread("packed texts whose positions leave some out")
        return inner

    def made(self, part: _Part) -> masks.Mask | None:
        """The mask of one function that is no conjunction."""
        place, given = self.place, part.given
        if part.kind == "bidirectional_mask_function":
            return None
        if part.kind == "causal_mask_function":
            return self.up_to(0)
        if part.kind == "sliding_window_overlay":
            return ~masks.causal(place.shift - given["sliding_window"])
        if part.kind == "sliding_window_bidirectional_overlay":
            n = given["sliding_window"]
            return masks.band(n, n) if place.aligned else self.up_to(n) & ~masks.causal(place.shift - n - 1)
        if part.kind == "padding_mask_function":
            valid = place.of_keys(given["padding_mask"]).bool()
            return None if bool(valid.all()) else masks.padding(valid)
        if part.kind == "or_masks":
            rules = [self.rule(inner) for inner in given["mask_functions"]]
            known = [rule for rule in rules if rule is not None]
            return reduce(or_, known) if len(known) == len(rules) else None
        return self.of_ids(part)

    def up_to(self, further: int) -> masks.Mask:
        """Keys up to some positions after the query's own."""
        if self.place.aligned and further == 0:
            return masks.causal()
        return masks.causal(self.place.shift + further)

    def of_ids(self, part: _Part) -> masks.Mask:
        """The functions that ask whether query and key belong together."""
        place, given = self.place, part.given
        if not place.aligned:
            raise Unread("documents, where the queries are not the last of the keys")
        if part.kind == "packed_sequence_mask_function":
            return masks.documents(_common(place.of_keys(given["packed_sequence_mask"])))
        if part.kind == "chunked_overlay":
            positions = torch.arange(place.key_len, device=place.device) + place.kv_offset  # (S,)
            since = positions - given["left_padding"].to(place.device)[:, None]  # (B, S)
            return masks.documents(_common(since.div(given["chunk_size"], rounding_mode="floor")))
        if part.kind == "blockwise_overlay":
            ids = _common(place.of_keys(given["block_sequence_ids"]))
            return masks.documents(ids) & masks.padding(ids >= 0)
        raise Unread(part.kind)


def _common(ids: Tensor) -> Tensor:
    """(B, S), or (S,) if all sequences have the same."""
    return ids[0] if bool((ids == ids[:1]).all()) else ids
