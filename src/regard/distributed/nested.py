"""Dictionaries, lists and tuples of a state as one level of names, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Leaf", "flattened", "put"]

SIMPLE = (bool, int, float, str, type(None))


@dataclass
class Leaf:
    """What a state is made of, by name: where it stands, with slashes between."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def flattened(state: Any) -> Leaf:
    """The tensors, and the numbers and words, of a state.

    >>> flattened({"step": 3, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}).values
    {'step': 3, 'groups/0/lr': 0.1, 'groups/0/betas/0': 0.9, 'groups/0/betas/1': 0.99}

    Raises:
        TypeError: something else, or a state that is no dictionary.
        ValueError: a name with a slash.
    """
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dictionary, got {type(state).__name__}")
    found = Leaf()
    for name, leaf in _leaves(state, ""):
        if name in found.tensors or name in found.values:
            raise ValueError(f"state: two things have the name {name}, of which one has a number for a key")
        if isinstance(leaf, Tensor):
            found.tensors[name] = leaf
        elif type(leaf) in SIMPLE:
            found.values[name] = leaf
        else:
            raise TypeError(
                f"state: {name} must be a tensor, a number, a word, True, False or None, or a dictionary, list or "
                f"tuple of these, got {type(leaf).__name__}; nothing that needs a pickle is saved"
            )
    return found


def put(state: Any, values: dict[str, Any]) -> None:
    """Numbers and words where they belong, in place; tuples are made anew."""
    _put(state, "", values)


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, inner in node.items():
            if not isinstance(key, str | int) or "/" in str(key):
                raise ValueError(f"state: a name must be a word without a slash, or a number, got {key!r} in {name!r}")
            yield from _leaves(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(node, list | tuple):
        for i, inner in enumerate(node):
            yield from _leaves(inner, f"{name}/{i}" if name else str(i))
    else:
        yield name, node


def _put(node: Any, name: str, values: dict[str, Any]) -> Any:
    if isinstance(node, dict | list):
        for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
            node[key] = _put(inner, f"{name}/{key}" if name else str(key), values)
        return node
    if isinstance(node, tuple):
        parts = [_put(inner, f"{name}/{i}", values) for i, inner in enumerate(node)]
        return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)
    return node if isinstance(node, Tensor) else values[name]
