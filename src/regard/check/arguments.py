"""What check() is given, looked at before anything runs: every message names the argument, what came and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from regard.check.contract import Contract
from regard.check.guard import describe
from regard.check.registry import near
from regard.check.request import Sizes

__all__ = ["check_arguments", "check_device", "check_expected", "check_subject"]

LARGEST_SEED = 2**31
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_subject(subject: Any) -> None:
    """It can be called.

    Raises:
        TypeError: for anything else.
    """
    if not callable(subject):
        raise TypeError(f"subject must be a function, a module or a class, got {type(subject).__name__}")


def check_arguments(
    contract: Any, sizes: Any, only: Any, *, device: Any, dtype: Any, seed: Any, seconds: Any, memory_mb: Any
) -> None:
    """All but the subject and the names.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for a value that cannot work.
    """
    if contract is not None and not isinstance(contract, Contract):
        raise TypeError(f"contract must be a regard.check.Contract or None, got {_type(contract)}")
    if sizes is not None and not isinstance(sizes, Sizes):
        raise TypeError(f"sizes must be a regard.check.Sizes or None, got {_type(sizes)}")
    if sizes is not None and sizes.heads % sizes.kv_heads:
        raise ValueError(f"sizes: heads must be a multiple of kv_heads, got {sizes.heads} and {sizes.kv_heads}")
    if isinstance(only, str) or not isinstance(only, Sequence):
        raise TypeError(f"only must be a list of names, got {only!r}; write only=[{only!r}]")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be a whole number, got {_type(seed)}")
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to {LARGEST_SEED}, got {seed}")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a number above 0, got {seconds!r}")
    if memory_mb is not None and not (isinstance(memory_mb, int) and memory_mb > 0):
        raise ValueError(f"memory_mb must be a whole number above 0, or None for no limit, got {memory_mb!r}")
    check_device(device)


def check_device(device: Any) -> None:
    """Numbers can be made and read there.

    Raises:
        ValueError: where they cannot.
    """
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:
        raise ValueError(f"device: {str(device)!r} cannot be used here: {describe(error)}") from None


def check_expected(expected: Any, known: Sequence[str]) -> None:
    """Names of properties, each with a reason.

    Raises:
        TypeError: for anything but a mapping.
        ValueError: for a name that there is not, or a reason that says nothing.
    """
    if not isinstance(expected, Mapping):
        raise TypeError(f"expected must be a mapping from properties to reasons, got {_type(expected)}")
    for name, reason in expected.items():
        if name not in known:
            raise ValueError(f"expected: there is no property {name!r}; {near(str(name), list(known))}")
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"expected: {name!r} needs a reason, in words")


def _type(given: Any) -> str:
    return type(given).__name__
