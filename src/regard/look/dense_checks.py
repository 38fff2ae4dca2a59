"""What a tensor that is said to hold weights must hold, and a mask that is said to be theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.look.checks import mask_of
from regard.masks import Mask, dense

__all__ = ["check_rows", "check_shape", "fitting_mask"]

# So far below 0 a weight may be, and so much of one a forbidden pair may hold, by rounding.
ROUNDING = 1e-6

# How far the sum of a row may be above 1: float16 sums of many rounded weights are not exact.
SLACK = 0.02

# Entries that are looked at together.
LOOKED_AT = 1 << 24


def check_shape(tensor: Tensor, name: str) -> None:
    """It holds weights of so many axes.

    Raises:
        ValueError: if it does not.
    """
    shape = tuple(tensor.shape)
    if tensor.is_meta:
        raise ValueError(f"{name} is on the device meta, which holds no numbers; run the model on a real device")
    if tensor.ndim not in (2, 3, 4):
        raise ValueError(f"{name} has shape {shape}; expected (B, H, L, S), (H, L, S) or (L, S)")
    if tensor.numel() == 0:
        raise ValueError(f"{name} has shape {shape}, which holds no weight; expected at least one query and key")


def check_rows(tensor: Tensor, mask: Mask | None, name: str) -> float:
    """Each row holds what a row of weights may hold, and what the mask forbids holds nothing.

    Returns:
        The lowest number, which may be below 0 by rounding alone.

    Raises:
        ValueError: if they do not.
    """
    query_len, key_len = tensor.shape[-2:]
    step = max(1, LOOKED_AT // (tensor.numel() // query_len))
    lowest = 0.0
    for start in range(0, query_len, step):
        rows = slice(start, min(start + step, query_len))
        some = tensor[..., rows, :]  # (..., H, r, S)
        low, sums = float(some.min()), some.sum(-1, dtype=torch.float64)
        if not bool(sums.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinities; look at the inputs and parameters of its layer")
        if low < -ROUNDING:
            raise ValueError(
                f"{name} holds {low:.3g}; expected weights, 0 to 1. These look like scores before the softmax: apply "
                "softmax over the last axis"
            )
        if float(sums.max()) > 1 + SLACK:
            raise ValueError(
                f"{name} has a row that sums to {float(sums.max()):.3g}; expected at most 1 over the keys, the last "
                "axis. Apply softmax over the last axis; if the keys are on another one, transpose"
            )
        if mask is not None:
            _check_allowed(some, mask, rows, (query_len, key_len))
        lowest = min(lowest, low)
    return lowest


def _check_allowed(some: Tensor, mask: Mask, rows: slice, lengths: tuple[int, int]) -> None:
    """No pair that the mask forbids holds weight; some: (..., H, r, S)."""
    some = some[(None,) * (4 - some.ndim)]  # (B, H, r, S)
    try:
        allowed = _allowed(mask, rows, lengths, some)
    except ValueError:
        # Of three axes the first may be that of the sequences: (N, L, S) has no heads.
        some = some.transpose(0, 1)  # (N, 1, r, S)
        allowed = _allowed(mask, rows, lengths, some)
    held = torch.where(allowed, 0, some)
    if float(held.max()) > ROUNDING:
        sequence, head, row, key = (int(place) for place in (held > ROUNDING).nonzero()[0])
        place = f"query {rows.start + row}, key {key}: {float(held[sequence, head, row, key]):.3g}"
        where = "" if some.shape[:2] == (1, 1) else f" in head {head} of sequence {sequence}"
        raise ValueError(
            f"mask forbids pairs that hold weight ({place}){where}; expected the mask that these weights were computed "
            "with. True means may attend: if it was to mean the opposite, pass ~mask"
        )


def _allowed(mask: Mask, rows: slice, lengths: tuple[int, int], some: Tensor) -> Tensor:
    """Which pairs of some rows a mask allows, (r, S) or (B or 1, H or 1, r, S)."""
    sequences, num_heads = some.shape[:2]
    return mask.to_dense(*lengths, batch=sequences, num_heads=num_heads, rows=rows, device=some.device)


def fitting_mask(mask: Any, tensor: Tensor) -> Mask:
    """A mask, or booleans that broadcast to the tensor as one.

    Raises:
        TypeError: if it is neither.
        ValueError: if the booleans do not broadcast.
    """
    found = mask_of(mask)
    if isinstance(found, Mask):
        return found
    wanted = tuple(tensor.shape)
    try:
        found.expand(wanted)
    except RuntimeError:
        raise ValueError(f"mask has shape {tuple(found.shape)}; expected one that broadcasts to {wanted}") from None
    return dense(found)
