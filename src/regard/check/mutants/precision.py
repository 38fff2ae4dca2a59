"""The right attention in too few bits, or in the wrong shape."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define
from regard.check.mutants.mutant import as_function, behaviour, built, mutant
from regard.check.request import Request

__all__: list[str] = []

right = as_function(define)
in_half = functools.partial(as_function, upcast=False)


def through(r: Request, contract: Contract, dtype: torch.dtype) -> Tensor:
    """The definition, computed in a dtype."""
    bias = None if r.bias is None else r.bias.to(dtype)
    given = r.but(query=r.query.to(dtype), key=r.key.to(dtype), value=r.value.to(dtype), bias=bias)
    return define(given, contract).to(r.query.dtype)


@mutant(aims="matches_definition")
def computed_in_bfloat16(r: Request, contract: Contract) -> Tensor:
    """Computing in bfloat16 whatever comes."""
    return through(r, contract, torch.bfloat16)


@behaviour(aims="half_precision", build=in_half)
def float16_through_bfloat16(r: Request, contract: Contract) -> Tensor:
    """Computing float16 in bfloat16."""
    return through(r, contract, torch.bfloat16 if r.query.dtype == torch.float16 else r.query.dtype)


@behaviour(aims="double_precision")
def float64_through_float32(r: Request, contract: Contract) -> Tensor:
    """Computing float64 in float32."""
    return through(r, contract, torch.float32 if r.query.dtype == torch.float64 else r.query.dtype)


@mutant(aims="matches_definition")
def output_truncated_to_float16(r: Request, contract: Contract) -> Tensor:
    """Passing the output through float16 on its way out."""
    return define(r, contract).to(torch.float16).to(r.query.dtype)


def followed_by(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """The right attention whose output is changed on its way out, with a look at query and key."""

    @functools.wraps(right)
    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        found = right(query, key, value, *args, **options)
        if isinstance(found, tuple):
            return (change(found[0], query, key), *found[1:])
        return change(found, query, key)

    return attention


@built(aims="additive_equals_boolean", rows=(4,))
def additive_mask_read_by_its_infinities() -> Any:
    """Reading a mask that is to be added by its -inf alone, so that the lowest number masks nothing."""

    @functools.wraps(right)
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
        if mask is not None and mask.is_floating_point():
            mask = ~mask.isneginf()
        return right(query, key, value, mask, **options)

    return attention


@built(aims="output_shape_and_dtype")
def output_in_float32() -> Any:
    """Returning float32 for inputs in half precision."""
    return followed_by(lambda out, query, key: out.float() if out.dtype.itemsize < 4 else out)


@built(aims="output_shape_and_dtype")
def wrong_shape() -> Any:
    """An output that is as long as the keys, filled up with zeros or cut."""

    def change(out: Tensor, query: Tensor, key: Tensor) -> Tensor:
        missing = key.shape[-2] - query.shape[-2]
        return out[..., : key.shape[-2], :] if missing < 0 else torch.nn.functional.pad(out, (0, 0, 0, missing))

    return followed_by(change)


@built(aims="lengths_differ")
def output_squeezed() -> Any:
    """Squeezing axes of length 1 out of the output."""
    return followed_by(lambda out, query, key: out.squeeze())


@built(aims="value_width_differs")
def output_as_wide_as_the_query() -> Any:
    """An output that is as wide as the query, whatever the width of the values."""

    def change(out: Tensor, query: Tensor, key: Tensor) -> Tensor:
        missing = query.shape[-1] - out.shape[-1]
        return out[..., : query.shape[-1]] if missing < 0 else torch.nn.functional.pad(out, (0, missing))

    return followed_by(change)
