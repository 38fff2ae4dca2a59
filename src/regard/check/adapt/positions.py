"""Find out how to ask for positions: a sinusoidal table, or a rotation."""

from __future__ import annotations

from typing import Any

import torch

from regard.check.adapt.places import PlaceSubject
from regard.check.adapt.rotary import adapt_rotary
from regard.check.adapt.sinusoidal import adapt_sinusoidal
from regard.check.contract import Contract

__all__ = ["adapt_positions"]


def adapt_positions(
    subject: Any,
    name: str,
    declared: Contract,
    suite: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
) -> PlaceSubject:
    """A sinusoidal encoding or a rotary one that can be asked, its conventions found by trying.

    Args:
        subject: a class, an instance of one, or a function.
        name: in reports.
        declared: what its author declares; of a contract, ``layout`` says something here.
        suite: "positions" or "rotary".
        device: where inputs are made.
        dtype: of the inputs.
        seconds: the time limit of one call.

    Raises:
        CannotAdapt: where it cannot be found out how to call it; the message says what was tried.
        ValueError: for another suite.
    """
    if suite == "positions":
        return adapt_sinusoidal(subject, name, declared, device=device, dtype=dtype, seconds=seconds)
    if suite == "rotary":
        return adapt_rotary(subject, name, declared, device=device, dtype=dtype, seconds=seconds)
    raise ValueError(f"suite: expected 'positions' or 'rotary', got {suite!r}")
