"""Dropout in the wrong place, and a bias that learns nothing."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define
from regard.check.mutants.mutant import as_function, behaviour, built
from regard.check.request import Request

__all__: list[str] = []


@built(aims="dropout_drops_weights", rows=(28,))
def dropout_shared_by_the_heads() -> Any:
    """Drawing the dropped weights once for all heads."""

    def drop(weights: Tensor, p: float) -> Tensor:
        return weights * F.dropout(torch.ones_like(weights[:, :1]), p)

    return as_function(define, drop=drop)


@built(aims="dropout_drops_weights")
def dropout_shared_by_the_sequences() -> Any:
    """Drawing the dropped weights once for all sequences."""

    def drop(weights: Tensor, p: float) -> Tensor:
        return weights * F.dropout(torch.ones_like(weights[:1]), p)

    return as_function(define, drop=drop)


@built(aims="dropout_drops_weights")
def dropout_on_the_output() -> Any:
    """Dropping numbers of the output in place of weights."""
    right = as_function(define)

    def dropout_on_the_output(query: Tensor, key: Tensor, value: Tensor, mask: Any = None, **options: Any) -> Any:
        p = options.pop("dropout", 0.0)
        found = right(query, key, value, mask, **options)
        output, *weights = found if isinstance(found, tuple) else (found,)
        output = F.dropout(output, p)
        return (output, *weights) if weights else output

    dropout_on_the_output.__signature__ = inspect.signature(right)  # type: ignore[attr-defined]
    return dropout_on_the_output


@behaviour(aims="gradients_match")
def bias_without_gradient(r: Request, contract: Contract) -> Tensor:
    """A bias that is detached, so that it never learns."""
    return define(r if r.bias is None else r.but(bias=r.bias.detach()), contract)
