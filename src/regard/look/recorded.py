"""What a watch recorded as the tabs of a page: encoder, decoder and cross attention, or one for each forward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.watch import Record, Seen

__all__ = ["tabs"]

Layers = dict[str, Any]

#: Beside "self_attn", modules of these names read another sequence: in torch's own decoder, and in BART's.
_BESIDE_SELF = ("multihead_attn", "encoder_attn")

_KINDS = ("encoder", "decoder", "cross", "")


def tabs(seen: Seen) -> tuple[dict[str, Layers], list[str]]:
    """The records of a watch as tabs of layers, each layer with its module's name.

    Steps of a generation are joined; other calls of one module have a layer, or where the model ran several times a
    tab, each.

    Args:
        seen: what the watch gave, with its query and key kept.

    Returns:
        Tabs and their layers, {tab: {name: weights}}, and what the reader must know, in sentences.

    Raises:
        RuntimeError: the weights of no record can be had; the message says why.
    """
    found: dict[tuple[int, str], Layers] = {}
    notes: list[str] = []
    unjoined: list[tuple[str, str]] = []
    first: RuntimeError | None = None
    names = list(dict.fromkeys(seen.names))
    for name in names:
        kind = _kind(name, names)
        try:
            called, apart = _called(seen, name)
        except RuntimeError as error:
            # One call of a kind that cannot be read leaves the others readable.
            first = first or error
            notes.append(f"{name} is not shown: {error}")
            continue
        if apart is not None:
            unjoined.append((name, apart))
        for step, label, weights in called:
            found.setdefault((step, kind), {})[label] = weights
    if not found:
        raise first or RuntimeError("nothing was recorded")
    if unjoined:
        name, why = unjoined[0]
        more = f", and {len(unjoined) - 1:,} more modules likewise" if len(unjoined) > 1 else ""
        notes.append(f"the calls of {name} are not joined{more}: {why}")
    steps = len({step for step, _ in found})
    kinds = {kind for _, kind in found}
    ordered = sorted(found, key=lambda key: (key[0], _KINDS.index(key[1])))
    return {_tab(step, kind, steps, len(kinds)): found[step, kind] for step, kind in ordered}, notes


def _called(seen: Seen, name: str) -> tuple[list[tuple[int, str, Any]], str | None]:
    """The calls of a module: which forward each is shown with, the name of its layer, and its weights; and where they
    look like the steps of a generation that cannot be joined, why.
    """
    records = seen.calls(name)
    apart = None
    if len(records) > 1:
        try:
            return [(0, name, seen.joined(name))], None
        except ValueError as error:
            # No generation: each call is a map of its own. But single queries over more and more keys are one.
            apart = str(error).partition(": ")[2] if _stepwise(records) else None
    several: dict[int, list[Record]] = {}
    for record in records:
        several.setdefault(record.step, []).append(record)
    return [
        (step, name if len(calls) == 1 else f"{name}, call {number}", record.weights)
        for step, calls in several.items()
        for number, record in enumerate(calls)
    ], apart


def _stepwise(records: Sequence[Record]) -> bool:
    """Whether calls of one query each follow, over one key more each."""
    shapes = [tuple(record.weights.shape[-2:]) for record in records[1:]]
    return all(queries == 1 for queries, _ in shapes) and all(
        after == before + 1 for (_, before), (_, after) in pairwise(shapes)
    )


def _kind(name: str, names: Sequence[str]) -> str:
    """Whose attention it is: encoder, decoder, cross, or "" where the name does not say."""
    outer, _, last = name.rpartition(".")
    lower = name.lower()
    beside = f"{outer}.self_attn" if outer else "self_attn"
    if "cross" in lower or "encdecattention" in lower or (last in _BESIDE_SELF and beside in names):
        return "cross"
    parts = lower.split(".")
    return next((kind for kind in ("encoder", "decoder") if any(kind in part for part in parts)), "")


def _tab(step: int, kind: str, steps: int, kinds: int) -> str:
    """What a tab is called; nothing where it is the only one."""
    named = (kind or "attention") if kinds > 1 else ""
    if steps == 1:
        return named
    return f"forward {step}" + (f", {named}" if named else "")
