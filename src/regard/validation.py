"""Every error message of the core, in one place: the argument, what came, what was expected, the likely fix."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from regard.masks.algebra import Sizes

__all__: list[str] = []

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IMPLS = ("auto", "fused", "reference")
MOST = 1 << 40  # positions; sums of a few of them are far from overflowing an int64


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """query, key and value agree with each other: types, devices, axes, sizes."""
    for name, t in (("query", query), ("key", key), ("value", value)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
        if t.dtype not in _FLOATS:
            raise TypeError(
                f"{name} must be float16, bfloat16, float32 or float64, got {_name(t.dtype)}; "
                f"convert it with {name}.float()"
            )
        if t.layout != torch.strided or t.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got layout {t.layout}; convert it with {name}.to_dense()")
        if t.dim() < 2:
            raise ValueError(f"{name} must have at least 2 axes (L, D), got shape {tuple(t.shape)}")
    if not query.dtype == key.dtype == value.dtype:
        got = ", ".join(f"{n} {_name(t.dtype)}" for n, t in (("query", query), ("key", key), ("value", value)))
        raise TypeError(f"query, key and value must have one dtype, got {got}; convert with .to(query.dtype)")
    if not query.device == key.device == value.device:
        got = ", ".join(f"{n} on {t.device}" for n, t in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"query, key and value must be on one device, got {got}; move with .to(query.device)")
    if not query.dim() == key.dim() == value.dim():
        got = ", ".join(f"{n} {tuple(t.shape)}" for n, t in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"query, key and value must have the same number of axes, got {got}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query and key must have the same width D (last axis), got query {query.shape[-1]} and key {key.shape[-1]}"
        )
    for name, letter, t in (("query", "D", query), ("value", "Dv", value)):
        if t.shape[-1] == 0:
            raise ValueError(f"{name} must have a width {letter} (last axis) of at least 1, got shape {tuple(t.shape)}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key and value must have the same length S (axis -2), got key {key.shape[-2]} and value {value.shape[-2]}"
        )
    if query.dim() > 2:
        check_heads(query, key, value)


def check_heads(query: Tensor, key: Tensor, value: Tensor) -> None:
    if key.shape[:-2] != value.shape[:-2]:
        raise ValueError(
            "key and value must agree in every axis but the last, "
            f"got key {tuple(key.shape)} and value {tuple(value.shape)}"
        )
    heads, kv_heads = query.shape[-3], key.shape[-3]
    if query.shape[:-3] != key.shape[:-3]:
        raise ValueError(
            "query and key must have the same batch axes (all before heads, length and width), "
            f"got query {tuple(query.shape)} and key {tuple(key.shape)}; expand the smaller one"
        )
    if heads == kv_heads and heads > 0:
        return
    if query.dim() == 3:
        raise ValueError(
            f"query and key must have the same batch size N in (N, L, D), got {heads} and {kv_heads}; "
            "for grouped heads without a batch add one: query[None], key[None], value[None]"
        )
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise ValueError(
            f"query heads H (axis -3) must be a multiple of key/value heads Hkv, got H={heads} and Hkv={kv_heads}"
        )


def check_number(value: float | None, name: str, *, positive: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or None, got {type(value).__name__}")
    # Compared, since math.isfinite() cannot be traced where a number is a symbol.
    if not abs(value) < math.inf or (positive and value <= 0):
        raise ValueError(f"{name} must be {'a positive' if positive else 'a'} finite number, got {value}")


def check_dropout(dropout: float, name: str = "dropout") -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {type(dropout).__name__}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {dropout}; it is the probability of dropping a weight")


def check_impl(impl: str) -> None:
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(map(repr, IMPLS))}, got {impl!r}")


def check_boolean_mask(mask: Any) -> None:
    """A mask is boolean; a float mask is an additive bias and is asked for by its name."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"mask must be a regard Mask or a boolean tensor (True = may attend), got {type(mask).__name__}"
        )
    if mask.dtype.is_floating_point:
        raise TypeError(
            f"mask must be boolean (True = may attend), got {_name(mask.dtype)}; "
            "pass a tensor to be added to the scores as bias="
        )
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean (True = may attend), got {_name(mask.dtype)}; convert it with mask.bool()"
        )


def check_mask_result(out: Any, wanted: tuple[int, ...]) -> None:
    """What a rule of masks.where() gave is boolean and broadcasts to (B, H, rows, keys)."""
    if not isinstance(out, Tensor) or out.dtype != torch.bool:
        got = _name(out.dtype) if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"masks.where(rule): rule(b, h, q, kv) must return a boolean tensor, got {got}")
    shape = tuple(out.shape)
    if len(shape) > 4 or any(n not in (1, m) for n, m in zip(reversed(shape), reversed(wanted), strict=False)):
        raise ValueError(
            f"masks.where(rule): rule(b, h, q, kv) must return a shape that broadcasts to {wanted}, as its arguments "
            f"do, got {shape}"
        )


def _wanted(sizes: Sizes) -> tuple[int, ...]:
    lead = sizes.batch_shape if sizes.headless else (*sizes.batch_shape, sizes.heads)
    return (*lead, sizes.query_len, sizes.key_len)


def check_dense(mask: Tensor, sizes: Sizes) -> Tensor:
    """The boolean tensor ``mask`` with the axes (..., H, L, S) made explicit, or an error if it does not broadcast."""
    return _explicit(mask, sizes, "mask", "True = may attend")


def check_bias(bias: Tensor, sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """The bias with the axes (..., H, L, S) made explicit, or an error if it cannot be added to the scores."""
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a torch.Tensor, got {type(bias).__name__}; one of low rank is of regard.biases")
    if bias.dtype == torch.bool:
        raise TypeError("bias must be a float tensor added to the scores, got bool; pass a boolean tensor as mask=")
    if bias.dtype != dtype and bias.dtype != torch.float32:
        raise TypeError(f"bias must be {_name(dtype)} like query, or float32, got {_name(bias.dtype)}")
    return _explicit(bias, sizes, "bias", "added to the scores")


def _explicit(given: Tensor, sizes: Sizes, name: str, meaning: str) -> Tensor:
    if given.device != sizes.device:
        raise ValueError(
            f"{name} must be on query's device {sizes.device}, got {given.device}; move it with .to(query.device)"
        )
    wanted, shape = _wanted(sizes), tuple(given.shape)
    fits = len(shape) <= len(wanted) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(wanted), strict=False)
    )
    if not fits:
        letters = "(N, L, S)" if sizes.headless else "(..., H, L, S)"
        raise ValueError(f"{name} ({meaning}) must broadcast to {letters} = {wanted}, got {shape}")
    given = given.view((1,) * (len(wanted) - len(shape)) + shape)  # leading axes of 1
    return given.unsqueeze(-3) if sizes.headless else given  # (N, L, S) -> (N, 1, L, S)


def check_sinks(sinks: Tensor, heads: int, query: Tensor) -> None:
    if not isinstance(sinks, Tensor):
        raise TypeError(f"sinks must be a tensor of one logit a head, got {type(sinks).__name__}")
    if tuple(sinks.shape) != (heads,):
        raise ValueError(f"sinks must have shape (H,) = ({heads},), one logit a query head, got {tuple(sinks.shape)}")
    if sinks.dtype not in (query.dtype, torch.float32):
        raise TypeError(f"sinks must be {_name(query.dtype)} like query, or float32, got {_name(sinks.dtype)}")
    if sinks.device != query.device:
        raise ValueError(f"sinks must be on query's device {query.device}, got {sinks.device}")


def check_lengths(query_len: int, key_len: int) -> None:
    for name, n in (("query_len", query_len), ("key_len", key_len)):
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"{name} must be an integer, got {type(n).__name__}")
        if n < 0:
            raise ValueError(f"{name} must be at least 0, got {n}")


def check_count(n: int, name: str, least: int, what: str = "the number of keys") -> int:
    n = as_integer(n, f"{name}: {what}")
    if n > MOST:
        raise ValueError(f"{name}: {what} must be at most {MOST}, got {n}")
    if n < least:
        hint = "; a window holds the query's own position, so the smallest is window(1)" if name == "window" else ""
        raise ValueError(f"{name}: {what} must be at least {least}, got {n}{hint}")
    return n


def check_cells(n: int, name: str, axis: str, most: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{name} must be an integer, got {type(n).__name__}")
    if not 1 <= n <= most:
        raise ValueError(f"{name} must be in 1..{axis}={most}, got {n}; a cell holds at least one pair")


def check_part(part: slice | None, length: int, name: str) -> slice:
    """A part of an axis with both ends."""
    if part is None:
        return slice(0, length)
    if not isinstance(part, slice):
        raise TypeError(f"mask.to_dense({name}): {name} must be a slice or None, got {type(part).__name__}")
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"mask.to_dense({name}): a slice must have step 1, got {step}; index the result instead")
    return slice(start, max(start, stop))


def check_offset(offset: int | None) -> int | None:
    if offset is None:
        return None
    offset = as_integer(offset, "causal(offset): offset", "an integer or None")
    if abs(offset) > MOST:
        raise ValueError(f"causal(offset): offset must lie in -{MOST}..{MOST}, got {offset}")
    return offset


def as_integer(n: Any, what: str, wanted: str = "an integer") -> int:
    """N as an int; numpy's integers are welcome, booleans are a mistake."""
    if isinstance(n, int) and not isinstance(n, bool):
        return n  # as it is: in a graph it may stand for a number, of which little more may be asked
    if isinstance(n, bool) or not hasattr(n, "__index__") or isinstance(n, Tensor):
        raise TypeError(f"{what} must be {wanted}, got {type(n).__name__}")
    return int(n.__index__())


def _integer(t: Tensor) -> bool:
    return not (t.dtype.is_floating_point or t.dtype.is_complex or t.dtype == torch.bool)


def check_padding_kind(given: Any) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(
            f"padding(given): a tensor of integer lengths or boolean valid keys, got {type(given).__name__}"
        )
    if given.dtype == torch.bool:
        if given.dim() not in (1, 2):
            raise ValueError(f"padding(valid): valid must have shape (S,) or (B, S), got {tuple(given.shape)}")
    elif not _integer(given):
        raise TypeError(f"padding(given): integer lengths or boolean valid keys, got {_name(given.dtype)}")
    elif given.dim() > 1:
        raise ValueError(f"padding(lengths): lengths must have shape (B,) or (), got {tuple(given.shape)}")
    elif not torch.compiler.is_compiling() and given.numel() and int(given.min()) < 0:
        raise ValueError(f"padding(lengths): a length must be at least 0, got {int(given.min())}")


def _same_device(t: Tensor, sizes: Sizes, name: str) -> None:
    if t.device != sizes.device:
        raise ValueError(
            f"{name} must be on query's device {sizes.device}, got {t.device}; move it with .to(query.device)"
        )


def check_padding(lengths: Tensor | None, valid: Tensor | None, sizes: Sizes) -> None:
    if lengths is not None:
        _same_device(lengths, sizes, "padding(lengths)")
        if lengths.dim() and lengths.shape[0] != sizes.batch:
            raise ValueError(
                f"padding(lengths): one length a sequence, expected ({sizes.batch},), got {tuple(lengths.shape)}"
            )
        if not torch.compiler.is_compiling() and lengths.numel() and int(lengths.max()) > sizes.key_len:
            raise ValueError(
                f"padding(lengths): a length of {int(lengths.max())} exceeds the key length S={sizes.key_len}"
            )
    if valid is not None:
        _same_device(valid, sizes, "padding(valid)")
        wanted = (sizes.batch, sizes.key_len)
        if tuple(valid.shape) not in (wanted, wanted[1:]):
            raise ValueError(f"padding(valid): expected shape (B, S) = {wanted} or (S,), got {tuple(valid.shape)}")


def check_document_ids(ids: Any) -> None:
    if not isinstance(ids, Tensor) or not _integer(ids):
        got = _name(ids.dtype) if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"documents(ids): ids must be an integer tensor, got {got}")
    if ids.dim() not in (1, 2):
        raise ValueError(f"documents(ids): ids must have shape (S,) or (B, S), got {tuple(ids.shape)}")


def check_documents(ids: Tensor, sizes: Sizes) -> None:
    _same_device(ids, sizes, "documents(ids)")
    wanted = (sizes.batch, sizes.key_len)
    if tuple(ids.shape) not in (wanted, wanted[1:]):
        raise ValueError(f"documents(ids): expected shape (B, S) = {wanted} or (S,), got {tuple(ids.shape)}")
