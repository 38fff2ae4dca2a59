"""What runs between a module's projections, seen by hooks: a residual sum or a norm around it then plays no part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Seen", "strange_buffers", "watched"]

Seen = dict[str, tuple[Tensor, Tensor]]
"""Layer -> what it read and what it gave, at its last call."""

Layers = Mapping[str, Sequence[str]]
"""Role ("q", "k", "v", "qkv", "kv", "out") -> the names of its linear layers."""


@contextlib.contextmanager
def watched(module: nn.Module, layers: Layers) -> Iterator[Seen]:
    """Watch these layers while something runs: what they read and gave is in the mapping afterwards."""
    seen: Seen = {}
    parts = dict(module.named_modules())

    def keep(name: str) -> object:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (given[0], output)

        return parts[name].register_forward_hook(hook)

    handles = [keep(name) for names in layers.values() for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def strange_buffers(module: nn.Module) -> list[str]:
    """Buffers that are more than a mask: numbers other than 0, 1 and what hides a score."""
    found = []
    for name, t in module.named_buffers():
        if t.is_floating_point() and t.numel():
            plain = (t == 0) | (t == 1) | (t <= -1e4)
            if not bool(torch.as_tensor(plain).all()):
                found.append(name)
    return found
