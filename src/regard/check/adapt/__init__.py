"""Find out how to call a subject: from its signature, and by trying."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from regard.check.adapt.construct import CannotAdapt, construct, tried
from regard.check.adapt.copies import own
from regard.check.adapt.function import LAYOUTS, FunctionSubject
from regard.check.adapt.module import ModuleSubject
from regard.check.adapt.modules import find_module_layout
from regard.check.adapt.names import Parameters
from regard.check.contract import Contract
from regard.check.guard import SubjectError
from regard.check.request import Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["CannotAdapt", "adapt", "compiled", "name_of"]

# Functions written in C tell no signature.
KNOWN: dict[str, str] = {
    "scaled_dot_product_attention": "query, key, value, attn_mask=, dropout_p=, is_causal=, scale=, enable_gqa=",
}
AXES = {"BHLD": 4, "BLHD": 4, "NLD": 3, "BLE": 3, "LD": 2}
MOST_LEFT = 8  # names that are worth listing
COMPILING = 180.0  # seconds: the first calls of a compiled subject compile
FALLBACK = (
    Sizes(heads=1),
    Sizes(batch=1),
    Sizes(1, 1),
    Sizes(2, 4, query_len=32, width=16),
    Sizes(2, 4, query_len=64, width=64),
    Sizes(1, 2, query_len=128, width=64),
)


def adapt(
    subject: Any,
    contract: Contract | None = None,
    *,
    suite: str = "attention",
    sizes: Sizes | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seconds: float = 20.0,
    name: str | None = None,
) -> Subject:
    """A subject that can be asked, with the conventions that its author did not declare found by trying.

    Args:
        subject: a function, a module or a class to construct.
        contract: what its author declares.
        suite: "attention", "rotary" or "positions".
        sizes: what it can be called with, where the usual sizes do not do.
        device: where inputs are made.
        dtype: of the inputs.
        seconds: the time limit of one call.
        name: in reports; its own if None.

    Raises:
        CannotAdapt: where it cannot be found out how to call it.
    """
    name = name or name_of(subject)
    declared = contract or Contract()
    options: dict[str, Any] = {"device": torch.device(device), "dtype": dtype, "seconds": seconds}
    if suite != "attention":
        from regard.check.adapt.positions import adapt_positions

        return adapt_positions(subject, name, declared, suite, **options)
    if inspect.isclass(subject):
        subject = construct(subject, seconds)
    if compiled(subject):
        options["seconds"] = max(seconds, COMPILING)
    subject = own(subject)
    if isinstance(subject, nn.Module):
        found: Subject = _module(subject.to(device), name, declared, options, sizes)
    elif callable(subject):
        found = _function(subject, name, declared, options, sizes)
    else:
        raise CannotAdapt(f"{name}: expected a function, a module or a class, got {type(subject).__name__}")
    usual = replace(Sizes(), batch=min(2, found.sizes.batch), heads=found.sizes.heads, kv_heads=found.sizes.heads)
    if sizes is None:
        usual = found.sizes
    elif isinstance(found, FunctionSubject):
        usual = Sizes()
    left = getattr(getattr(found, "parameters", None), "left", [])
    if left:
        shown = ", ".join(left[:MOST_LEFT]) + (" ..." if len(left) > MOST_LEFT else "")
        found.notes.append(f"arguments whose use is not known were left at their defaults: {shown}")
    found.usual = usual if found.supports_sizes(usual) else found.sizes
    from regard.check.conventions import find_conventions

    find_conventions(found)
    return found


def name_of(subject: Any) -> str:
    """A short name."""
    if isinstance(subject, functools.partial):
        return name_of(subject.func)
    subject = getattr(subject, "_orig_mod", subject)
    return str(getattr(subject, "__name__", type(subject).__name__))


def compiled(subject: Any) -> bool:
    """Whether it came out of torch.compile."""
    return hasattr(subject, "_torchdynamo_orig_callable") or hasattr(subject, "_orig_mod")


def _parameters(function: Callable[..., Any], name: str) -> Parameters:
    original = getattr(function, "_torchdynamo_orig_callable", function)
    if isinstance(original, nn.Module):
        original = getattr(original, "_orig_mod", original).forward
    bound = original.keywords if isinstance(original, functools.partial) else {}
    inner = original.func if isinstance(original, functools.partial) else original
    known = KNOWN.get(getattr(inner, "__name__", ""))
    try:
        if known is not None and not inspect.isfunction(inspect.unwrap(inner)):
            return Parameters(inner, known, bound=bound)
        return Parameters(original, bound=bound)
    except (TypeError, ValueError):
        raise CannotAdapt(
            f"{name} tells no signature; wrap it: def {name}_(query, key, value, mask=None): ..."
        ) from None


def _function(
    function: Callable[..., Any], name: str, declared: Contract, options: dict[str, Any], sizes: Sizes | None
) -> Subject:
    parameters = _parameters(function, name)
    _by_position(parameters)
    missing = [role for role in ("query", "key", "value") if role not in parameters]
    if missing:
        raise CannotAdapt(
            f"{name}{parameters.signature}: no argument reads as {', '.join(missing)}; expected query, key and value "
            f"(q, k, v, Q, query_states ...), then a mask and options; {_wrap(function)}"
        )
    if parameters.unknown:
        raise CannotAdapt(
            f"{name}({parameters.unknown[0]}=): what it is for is not known; give it a default, or wrap it: "
            f"functools.partial({name}, {parameters.unknown[0]}=...)"
        )
    subject = FunctionSubject(function, name, parameters, declared, **options)
    _find_layout(subject, sizes)
    return subject


def _wrap(function: Any) -> str:
    if isinstance(getattr(function, "__self__", None), nn.Module):
        return "it is a method of a module: check the module itself"
    return "wrap it in a function that takes these"


def _by_position(parameters: Parameters) -> None:
    """Three first arguments with names that say nothing are query, key and value, in this order."""
    first = parameters.positional[:3]
    if len(first) == 3 and set(first) <= set(parameters.unknown):
        for role, name in zip(("query", "key", "value"), first, strict=True):
            parameters.by_role[role] = parameters.signature.parameters[name]
            parameters.unknown.remove(name)


def _find_layout(subject: FunctionSubject, sizes: Sizes | None) -> None:
    """The layout whose answers agree with the definition; where none does, the first in which it can be called."""
    p = subject.parameters
    needed = any(p.signature.parameters[name].default is p.signature.empty for name in p.masks)
    errors: dict[str, str] = {}
    ran: list[tuple[bool, str, str | None, bool, Sizes]] = []
    for everyone in (None, True, False) if needed else (None,):
        subject.everyone = everyone
        ran = _layouts_that_run(subject, sizes, errors) or ran
        if any(each[0] for each in ran):
            break
    if not ran:
        raise CannotAdapt(f"{subject.name}: no way was found to call it. Tried {tried(errors)}")
    # What takes a batch must be right with a batch: a softmax over axis 1 is right for single (L, D) inputs alone.
    most = max(AXES[each[1]] for each in ran)
    ran = [each for each in ran if AXES[each[1]] == most]
    _, found, out_layout, arrays, at = next((each for each in ran if each[0]), ran[0])
    subject.layout, subject.out_layout, subject.arrays, subject.sizes = found, out_layout, arrays, at
    subject.contract = replace(subject.contract, layout=cast(Any, found))


def _layouts_that_run(
    subject: FunctionSubject, sizes: Sizes | None, errors: dict[str, str]
) -> list[tuple[bool, str, str | None, bool, Sizes]]:
    """Whether each agrees with the definition, layout of inputs and output, arrays or tensors, and sizes."""
    declared = subject.declared.layout
    ran: list[tuple[bool, str, str | None, bool, Sizes]] = []
    for at in (sizes,) if sizes else (Sizes(), *FALLBACK):
        for arrays, layout in itertools.product((False, True), (declared,) if declared else LAYOUTS):
            if arrays and ran:
                break
            # Hugging Face's functions take (B, H, L, D) and return (B, L, H, D).
            for out in (None, "BLHD") if layout == "BHLD" else (None,):
                subject.layout, subject.out_layout, subject.arrays = layout, out, arrays
                agrees = _try(subject, at, errors)
                if agrees is not None:
                    ran.append((agrees, layout, out, arrays, at))
                    break
        if ran:
            break
    return ran


def _try(subject: FunctionSubject, at: Sizes, errors: dict[str, str]) -> bool | None:
    """Whether it agrees with the definition; None where it cannot be called so."""
    key = f"{subject.layout}{' as arrays' if subject.arrays else ''}"
    request = subject.make(at, seed=1)
    try:
        output = subject.ask(request).output
    except (SubjectError, Violation) as error:
        errors.setdefault(key, str(error))
        if isinstance(error, SubjectError) and error.kind in ("time", "memory"):
            raise CannotAdapt(f"{subject.name}: a plain call ({at}): {error}") from error
        return None
    off = (output.detach().double() - subject.truth(request)).abs()
    return bool((off <= 0.05 * subject.truth(request).abs().max()).all())


def _module(module: nn.Module, name: str, declared: Contract, options: dict[str, Any], sizes: Sizes | None) -> Subject:
    inner = getattr(module, "_orig_mod", module)
    own = next(module.parameters(), None)
    if own is not None:
        options = options | {"dtype": own.dtype}
    parameters = Parameters(inner.forward)
    if parameters.positional and "x" not in parameters and "query" not in parameters:
        first = parameters.positional[0]
        parameters.by_role["x"] = parameters.signature.parameters[first]
        parameters.unknown = [each for each in parameters.unknown if each != first]
    if "query" not in parameters and not parameters.positional:
        # A module of q, k and v by other names, or one that takes nothing.
        raise CannotAdapt(f"{name}.forward{parameters.signature}: no argument reads as x or as query, key and value")
    if parameters.unknown:
        raise CannotAdapt(
            f"{name}.forward({parameters.unknown[0]}=): what it is for is not known; give it a default, or wrap the "
            "module in one whose forward takes x and a mask"
        )
    if own is None and {"query", "key", "value"} <= set(parameters.by_role):
        # Attention without projections, as a module: its dropout would make every answer another one.
        return _function(module.eval(), name, declared, options, sizes)
    subject = ModuleSubject(module, name, parameters, declared, **options)
    if subject.width == 0:
        raise CannotAdapt(f"{name}: its width was not found; name it embed_dim, d_model or d_in")
    find_module_layout(subject, sizes)
    return subject
