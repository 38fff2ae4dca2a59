"""A snippet to paste that shows a failure."""

from __future__ import annotations

from dataclasses import fields

from torch import Tensor

from regard.check.contract import REGARD
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["snippet"]

MOST_NUMBERS = 400  # a mask with more entries is not written out


def snippet(subject: Subject, violation: Violation, property_name: str, sizes: Sizes, seed: int) -> str:
    """Python that makes the inputs, calls the subject and prints the number that is wrong.

    Args:
        subject: the subject.
        violation: how it fails.
        property_name: without ``check_``; called in the last line, which raises.
        sizes: at which it fails.
        seed: of the inputs.
    """
    request = violation.request
    again = [
        f"from regard.check import {'REGARD' if subject.declared == REGARD else 'Contract'}, Sizes, properties",
        f"properties.check_{property_name}({subject.name}, {_spelled(sizes)}, {seed}{_contract(subject)})",
    ]
    if request is None:
        return "\n".join([subject.origin, *again])
    lines = ["import torch", subject.origin]
    if getattr(subject, "parameters", None) is not None and "module" in subject.parameters:  # type: ignore[attr-defined]
        lines.append("from types import SimpleNamespace")
        groups = request.query.shape[1] // request.key.shape[1]
        lines.append(f"module = SimpleNamespace(num_key_value_groups={groups}, training=False, is_causal=False)")
    lines += request.code
    lines += _masks(request)
    if request.strides is not None:
        lines.append(f"# the same with inputs in another arrangement in memory: {request.strides}")
    if subject.kind == "module" and request.query.dtype != subject.dtype:
        lines.append(f"{subject.name} = {subject.name}.to({request.query.dtype})")
    if subject.kind == "module":
        lines.append(f"{subject.name}.{'train' if request.training else 'eval'}()")
    lines.append(f"output = {subject.spell(request)}")
    where = "" if violation.index is None else f"wrong at {list(violation.index)} of (B, H, L, D)"
    wanted = "" if violation.wanted is None else f"wanted {violation.wanted}"
    said = "; ".join(part for part in (where, wanted) if part)
    lines.append(f"print(output)  # {said}" if said else "print(output)")
    return "\n".join(line for line in (*lines, *again) if line)


def _spelled(sizes: Sizes) -> str:
    given = {field.name: getattr(sizes, field.name) for field in fields(sizes)}
    for name, other in (("kv_heads", "heads"), ("key_len", "query_len"), ("value_width", "width")):
        if given[name] == given[other]:
            del given[name]
    return f"Sizes({', '.join(f'{name}={n}' for name, n in given.items())})"


def _contract(subject: Subject) -> str:
    if subject.declared == REGARD:
        return ", contract=REGARD"
    declared = subject.declared.declared()
    words = ", ".join(f"{name}={value!r}" for name, value in declared.items())
    return f", contract=Contract({words})" if words else ""


def _masks(request: Request) -> list[str]:
    lines = []
    for name in ("mask", "padding"):
        given: Tensor | None = getattr(request, name)
        if given is None:
            continue
        if given.numel() > MOST_NUMBERS:
            lines.append(f"# {name}: boolean {tuple(given.shape)}, see the property")
        else:
            lines.append(f"{name} = torch.tensor({given.int().tolist()}).bool()  # True = may attend")
    return lines
