"""What a subject offers: each feature tried once, and the reason why not where it does not work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from regard.check.adapt.function import FunctionSubject
from regard.check.adapt.masks import REACHES
from regard.check.adapt.module import ModuleSubject
from regard.check.guard import SubjectError, guarded
from regard.check.probe import Adapted, both
from regard.check.request import Request
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation

__all__ = ["probe"]


def probe(subject: Subject, feature: str) -> str | None:
    """None where a subject offers the feature, otherwise the reason why not; by trying it once."""
    assert isinstance(subject, FunctionSubject | ModuleSubject)
    request: Request | None = None
    at = subject.usual
    p = subject.parameters
    try:
        if feature in ("float16", "bfloat16", "float32", "float64"):
            request = subject.make(at, seed=10, dtype=getattr(torch, feature))
        elif feature == "lengths":
            request = subject.make(replace(at, key_len=at.key_len + 2), seed=10)
        elif feature == "value_width":
            if subject.kind == "module":
                return "the widths of a module are its own"
            request = subject.make(replace(at, value_width=at.width - 2), seed=10)
        elif feature == "widths":
            if subject.kind == "module":
                return "the widths of a module are its own"
            request = subject.make(replace(at, width=7, value_width=7), seed=10)
        elif feature == "grouped":
            if subject.kind == "module":
                return "the heads of a module are its own"
            if subject.layout in ("NLD", "LD", "BLE"):
                return f"inputs of layout {subject.layout} have no heads of their own"
            request = subject.make(replace(at, heads=4, kv_heads=2), seed=10)
        elif feature in REACHES:
            return None if feature in subject.forms else _no_mask(subject, feature)
        elif feature == "any mask":
            return None if subject.forms or subject.padding_form else _no_mask(subject, "uniform")
        elif feature == "padding":
            return (
                None if subject.padding_form or "per sequence" in subject.forms else _no_mask(subject, "per sequence")
            )
        elif feature == "causal":
            if subject.contract.causal != "always":
                subject.require("causal option")
        elif feature == "causal option":
            if "causal" not in p:
                return "it has no causal option"
            request = subject.make(at, seed=10).but(causal=True)
        elif feature == "causal lengths":
            subject.require("causal")
            subject.require("lengths")
            if subject.contract.causal == "always":
                return "it is always causal: how it aligns other lengths was not asked for"
            request = subject.make(replace(at, key_len=at.key_len + 2), seed=10).but(causal="causal" in p)
        elif feature == "combined":
            subject.require("causal")
            subject.require("any mask")
            request = both(subject, at)[0]
        elif feature in ("window", "scale", "bias", "softcap"):
            if subject.kind == "module" or feature not in p:
                return f"it has no argument for a {feature}"
            request = subject.make(at, seed=10)
            request = request.but(**{feature: _option(feature, request)})
        elif feature == "dropout":
            return None if subject.contract.dropout != "none" else "it has no dropout"
        elif feature == "weights":
            return None if subject.contract.weights else "it does not return its weights"
        elif feature == "weights option":
            subject.require("weights")
            return None if "weights" in p else "its weights are always returned"
        elif feature == "gradients":
            if getattr(subject, "arrays", False):
                return "arrays have no gradients"
            leaves = subject.make(at, seed=10).map(lambda t: t.requires_grad_())
            total = subject.ask(leaves).output.sum()
            # A backward pass is the subject's own code too; and what it closes over keeps its own .grad.
            wanted = (leaves.query,)
            guarded(
                lambda: torch.autograd.grad(total, wanted, allow_unused=True), {}, subject.seconds, subject.findings
            )
            return None
        elif feature == "gradient numbers":
            subject.require("numbers")
            return "its gradients pass through more than its projections" if getattr(subject, "inside", False) else None
        elif feature == "numbers" and subject.contract.positional:
            return "positions are added inside: its numbers are not those of the definition"
        elif feature == "numbers":
            subject.truth(subject.make(at, seed=10))
            return None
        elif feature == "strides":
            return "arrays are copied" if getattr(subject, "arrays", False) else None
        elif feature == "module":
            return None if subject.kind == "module" else "it is about modules"
        elif feature == "function":
            return None if subject.kind == "function" else "it is about functions of query, key and value"
        elif feature == "order":
            return "positions are added inside" if subject.contract.positional else None
        elif feature == "not causal":
            return "it is always causal" if subject.contract.causal == "always" else None
        elif feature == "batch":
            return "it takes one sequence at a time" if at.batch == 1 else None
        else:
            raise LookupError(f"no such feature: {feature}")
        if request is not None:
            subject.ask(request)
    except SubjectError as error:
        if feature == "gradients" and _is_wrong(error):
            raise Violation(f"backward pass: {'raises ' if error.kind == 'raised' else ''}{error}") from error
        return f"raises {error}" if error.kind == "raised" else str(error)
    except Violation:
        return None  # it answers, with something that is wrong: the properties will tell
    except Unsupported as error:
        return str(error)
    except NotImplementedError as error:
        return f"raises NotImplementedError: {error}"
    except RuntimeError as error:
        if feature != "gradients":
            raise
        return f"raises {type(error).__name__}: {error}"
    return None


def _is_wrong(error: SubjectError) -> bool:
    """Whether a backward pass that does not work is a mistake; to have none is honest, and torch says it so."""
    return not isinstance(error.cause, RuntimeError)  # NotImplementedError is one


def _option(feature: str, request: Request) -> Any:
    if feature == "bias":
        shape = (1, 1, request.query_len, request.key_len)
        return torch.zeros(shape, dtype=request.query.dtype, device=request.query.device)
    return {"window": 2, "scale": 0.5, "softcap": 2.0}[feature]


def _no_mask(subject: Adapted, reach: str) -> str:
    if not subject.parameters.masks and "padding" not in subject.parameters:
        return "it takes no mask"
    return f"it takes no mask {reach}" if reach != "uniform" else "it takes no mask of shape (L, S)"
