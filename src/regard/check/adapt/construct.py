"""From a class to an instance: sizes for the arguments of its constructor, by their names."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from regard.check.adapt.names import CONSTRUCTOR, role_of
from regard.check.guard import Findings, SubjectError, guarded

__all__ = ["CannotAdapt", "construct", "tried"]

WIDTH, HEADS = 24, 3  # three heads of 8: neither a power of two nor as many as there are sequences


class CannotAdapt(ValueError):
    """It cannot be found out how to call the subject; the message says what was tried and what would help."""


def tried(errors: dict[str, str]) -> str:
    """What was tried and what came of it, each error once: "BHLD, BLHD: ValueError: ..."."""
    ways: dict[str, list[str]] = {}
    for way, error in errors.items():
        ways.setdefault(error, []).append(way)
    return "; ".join(f"{', '.join(which)}: {error}" for error, which in ways.items())


def construct(kind: type, seconds: float) -> Any:
    """An instance of a class, from what its constructor calls its arguments.

    Args:
        kind: the class.
        seconds: the limit.

    Raises:
        CannotAdapt: for an argument whose name says nothing, or a constructor that raises.
    """
    try:
        parameters = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    given: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        role = role_of(parameter.name, CONSTRUCTOR)
        wanted = _value(role, parameter.default is parameter.empty)
        if wanted is not None:
            given[parameter.name] = wanted
        elif parameter.default is parameter.empty:
            raise CannotAdapt(
                f"{kind.__name__}({parameter.name}=): no value for it is known; pass an instance: "
                f"regard.check({kind.__name__}(...))"
            )

    def make() -> Any:
        torch.manual_seed(0)
        return kind(**given)

    try:
        return guarded(make, {}, seconds, Findings())
    except SubjectError as error:
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise CannotAdapt(
            f"{kind.__name__}({said}) raises {error}; pass an instance: regard.check({kind.__name__}(...))"
        ) from error


def _value(role: str | None, required: bool) -> Any:
    always = {"width": WIDTH, "heads": HEADS, "head_width": WIDTH // HEADS, "batch_first": True, "dropout": 0.0}
    if role in always:
        return always[role]
    if not required:
        return None
    sizes = {"d_k": WIDTH, "d_v": WIDTH, "d_out": WIDTH, "length": 128, "flag": True, "causal": False}
    if role in sizes:
        return sizes[role]
    return _Config() if role == "config" else None


class _Config:
    """A configuration object that answers by the name it is asked for, as small training scripts have them."""

    def __getattr__(self, name: str) -> Any:
        role = role_of(name, CONSTRUCTOR)
        found = None if role is None or name.startswith("__") else _value(role, True)
        if found is None:
            raise AttributeError(f"the configuration made for this check has no {name!r}")
        return found
