"""Each rank takes some heads of the whole text: tokens are exchanged for heads, and back (DeepSpeed Ulysses)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.distributed.once import once
from regard.distributed.order import Order, positions
from regard.distributed.traffic import Ranks

__all__ = ["to_heads", "to_tokens"]


def to_heads(t: Tensor, ranks: Ranks, order: Order) -> Tensor:
    """(B, H, R, W) of this rank's tokens and all heads to (B, H / world, L, W) of all tokens and this rank's heads."""
    found: Tensor = _ToHeads.apply(t, ranks, order)  # type: ignore[no-untyped-call]
    return found


def to_tokens(t: Tensor, ranks: Ranks, order: Order) -> Tensor:
    """The way back: (B, H / world, L, W) to (B, H, R, W)."""
    found: Tensor = _ToTokens.apply(t, ranks, order)  # type: ignore[no-untyped-call]
    return found


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks, order: Order) -> Tensor:
        ctx.ranks, ctx.order = ranks, order
        return _to_heads(t, ranks, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            first = _to_tokens(grads[0], ctx.ranks, ctx.order)
        return *once([first], grads), None, None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks, order: Order) -> Tensor:
        ctx.ranks, ctx.order = ranks, order
        return _to_tokens(t, ranks, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            first = _to_heads(grads[0], ctx.ranks, ctx.order)
        return *once([first], grads), None, None


def _to_heads(t: Tensor, ranks: Ranks, order: Order) -> Tensor:
    world, r = ranks.world, t.shape[2]
    mine = t.unflatten(1, (world, t.shape[1] // world)).transpose(0, 1)  # (B, H, R, W) -> (world, B, H / world, R, W)
    found = ranks.exchange(mine)  # (world, B, H / world, R, W): this rank's heads of everybody's tokens
    whole = found.permute(1, 2, 0, 3, 4).flatten(2, 3)  # -> (B, H / world, L, W), in order of rank
    out = torch.empty_like(whole, memory_format=torch.contiguous_format)
    out[:, :, _places(r * world, ranks, order, t.device)] = whole
    return out


def _to_tokens(t: Tensor, ranks: Ranks, order: Order) -> Tensor:
    world, length = ranks.world, t.shape[2]
    by_rank = t[:, :, _places(length, ranks, order, t.device)].unflatten(2, (world, length // world))
    found = ranks.exchange(by_rank.movedim(2, 0))  # (world, B, H / world, R, W): everybody's heads of these tokens
    return found.movedim(0, 1).flatten(1, 2)  # -> (B, H, R, W)


def _places(length: int, ranks: Ranks, order: Order, device: torch.device) -> Tensor:
    """The positions of everybody's tokens, in order of rank, (L,)."""
    return torch.cat([positions(length, r, ranks.world, order, device) for r in range(ranks.world)])
