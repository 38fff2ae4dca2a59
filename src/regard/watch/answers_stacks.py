"""Which stack of layers a record belongs to: the layers of an encoder and of a decoder are no product."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

__all__ = ["check_one_stack"]

NUMBER = re.compile(r"\d+")

# Stacks that an error lists, of more.
MOST = 6


def check_one_stack(names: Iterable[str], argument: str) -> None:
    """The names are those of one stack of layers.

    Names that differ in their numbers alone are of one stack, and so are modules of other names in other layers of it,
    ``layers.0.self_attn`` and ``layers.1.attn``. Two modules of other names in one layer are self- and cross-attention.

    Args:
        names: the qualified names of modules.
        argument: what is called wrong, "rollout(weights)".

    Raises:
        ValueError: they are of several stacks; the message lists them and says how to pass one.
    """
    distinct = [name for name in dict.fromkeys(names) if name]
    found = _stacks(distinct)
    if len(found) < 2:
        return
    spelled = [", ".join(dict.fromkeys(NUMBER.sub("*", name) for name in stack)) for stack in found]
    listed = "; ".join(spelled[:MOST]) + (f"; and {len(found) - MOST} more" if len(found) > MOST else "")
    raise ValueError(
        f"{argument}: the records are of {len(found)} stacks of layers, {listed}; pass those of one, "
        f"[r for r in seen if {_condition(found[0], [name for stack in found[1:] for name in stack])}], or record it "
        "alone, regard.watch(model, modules=...); if each layer reads the one before, pass [r.weights for r in seen]"
    )


def _stacks(names: list[str]) -> list[list[str]]:
    """The names of each stack, in the order of their first."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(NUMBER.sub("*", name), []).append(name)
    shared = len(_shared(names))
    stacks: list[tuple[str, set[str], list[str]]] = []
    for kind in kinds.values():
        places = [_place(name, shared) for name in kind]
        before, layers = places[0][0], {layer for _, layer in places}
        for other, taken, members in stacks:
            if other == before and taken.isdisjoint(layers):
                taken |= layers
                members += kind
                break
        else:
            stacks.append((before, layers, kind))
    return [members for _, _, members in stacks]


def _shared(names: list[str]) -> list[str]:
    """The first parts of all names."""
    columns = zip(*(name.split(".") for name in names), strict=False)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


def _place(name: str, shared: int) -> tuple[str, str]:
    """Where a module is below what all share: what stands before the number of its layer, and the number."""
    below = ".".join(name.split(".")[shared:])
    number = NUMBER.search(below)
    return (below, "") if number is None else (below[: number.start()], number[0])


def _condition(wanted: list[str], others: list[str]) -> str:
    """What holds for the names of one stack alone, as one would write it."""
    shared = len(_shared(wanted + others))
    start = ".".join(wanted[0].split(".")[: shared + 1])
    if all(name.startswith(start) for name in wanted) and not any(name.startswith(start) for name in others):
        return f'r.name.startswith("{start}")'
    end = wanted[0].rpartition(".")[2]
    if all(name.endswith(end) for name in wanted) and not any(name.endswith(end) for name in others):
        return f'r.name.endswith("{end}")'
    return f"r.name in {wanted}"
