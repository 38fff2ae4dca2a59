"""Tensors, arrays, masks, tokens and numbers of anybody's: read as what is computed with, or refused by name."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.masks import Mask

__all__ = ["check_tokens", "encoding_table", "integers_of", "mask_of", "numbers_of", "positive", "whole"]

_TABLE = "a tensor or an array (L, D), or a module that holds one such table"


def whole(name: str, value: Any, expected: str, *, least: int | None = None) -> int:
    """An integer of any kind: of Python, of numpy, or a tensor without axes; a boolean is none.

    Example:
        >>> import torch
        >>> from regard.look.checks import whole
        >>> whole("batch", torch.tensor(3), "the number of a sequence")
        3

    Args:
        name: of the argument.
        value: what came.
        expected: what was expected, in words.
        least: the least that it may be.

    Returns:
        The integer.

    Raises:
        TypeError: if it is none.
        ValueError: if it is less than that.
    """
    told = f"{name} is {value if isinstance(value, int) else reprlib.repr(value)}; expected {expected}"
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        raise TypeError(told)
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(told) from None
    if least is not None and number < least:
        raise ValueError(told)
    return number


def positive(name: str, value: Any, expected: str) -> float:
    """A finite number above 0.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not above 0, or not finite.
    """
    told = f"{name} is {reprlib.repr(value)}; expected {expected}"
    if isinstance(value, str | bytes | bool):  # float() would read some
        raise TypeError(told)
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(told) from None
    if not 0 < number < math.inf:
        raise ValueError(told)
    return number


def numbers_of(given: Any, name: str, kinds: str, *, numbers: str = "numbers", floating: bool = True) -> Tensor:
    """The tensor of a tensor, or a copy of an array as one, without its gradient.

    An array is copied: torch reads neither foreign byte orders nor negative strides, warns of arrays that may not be
    written to, and would not see what is written to memory that it shares.

    Args:
        given: what came.
        name: of the argument.
        kinds: what was expected, in words.
        numbers: what numbers were expected, in words.
        floating: whether integers are refused.

    Returns:
        A dense tensor of real numbers.

    Raises:
        TypeError: if it is neither, or holds none.
    """
    if not isinstance(given, Tensor):
        if not hasattr(given, "__array__") or isinstance(given, type):
            raise TypeError(f"{name} is of type {type(given).__name__}; expected {kinds}")
        given = _copied(given, name)
    kind = str(given.dtype)[6:]
    if given.is_nested or given.layout != torch.strided:
        told = "nested" if given.is_nested else f"stored as {str(given.layout)[6:]}"
        raise TypeError(f"{name} is {told}; expected a dense tensor: pass its .to_dense(), or a list of dense ones")
    if given.is_quantized:
        raise TypeError(f"{name} is quantised ({kind}); expected {numbers}: pass its .dequantize()")
    if given.is_floating_point() and given.dtype.itemsize == 1:
        raise TypeError(f"{name} holds {kind}, which torch only stores; expected {numbers}: pass its .float()")
    if given.is_complex() or (floating and not given.is_floating_point()):
        raise TypeError(f"{name} holds {kind}; expected {numbers}")
    tensor: Tensor = given.detach()
    return tensor


def _copied(given: Any, name: str) -> Tensor:
    try:
        array = given.__array__()
        return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), order="C", subok=False))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(given).__name__} that torch cannot read: {error}") from None


def mask_of(given: Any, name: str = "mask") -> Mask | Tensor:
    """A mask as it is, or booleans as a tensor; those of an array are copied.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(given, Mask):
        return given
    told = f"is of type {type(given).__name__}"
    if hasattr(given, "__array__") and not isinstance(given, type | Tensor):
        given = _copied(given, name)
    if isinstance(given, Tensor):
        if given.layout == torch.strided and given.dtype == torch.bool:
            return given
        told = f"holds {str(given.dtype)[6:]}" if given.layout == torch.strided else f"is stored as {given.layout}"
    raise TypeError(
        f"{name} {told}; expected a mask of regard.masks or booleans (..., L, S), True where attending is allowed"
    )


def encoding_table(encoding: Any) -> Tensor:
    """The table of a positional encoding, (L, D) in float64 on the CPU.

    Example:
        >>> import torch
        >>> from regard.look.checks import encoding_table
        >>> encoding_table(torch.nn.Embedding(20, 8)).shape
        torch.Size([20, 8])

    Args:
        encoding: (L, D), (1, L, D) or (L, 1, D), a tensor or an array; or a module with ``get_encoding()``, or with one
            such table among its parameters and buffers.

    Returns:
        A tensor of its own.

    Raises:
        TypeError: if it is none of these, or the module holds no table or several.
        ValueError: if it has another shape, holds nothing, or NaN or infinities.
    """
    if not isinstance(encoding, Tensor) and hasattr(encoding, "get_encoding"):
        encoding = encoding.get_encoding()
    elif isinstance(encoding, nn.Module):
        encoding = _only_table(encoding)
    values = _squeezed(numbers_of(encoding, "encoding", _TABLE, floating=False))
    if values.is_meta or values.ndim != 2 or values.numel() == 0:
        where = " on the device meta" if values.is_meta else ""
        raise ValueError(f"encoding has shape {tuple(values.shape)}{where}; expected (L, D), a value at least")
    values = values.to("cpu", torch.float64, copy=True)
    if not bool(values.isfinite().all()):
        raise ValueError("encoding holds NaN or infinities; expected finite numbers")
    return values


def _only_table(module: nn.Module) -> Tensor:
    named = [*module.named_parameters(), *module.named_buffers()]
    tables = {name: tensor for name, tensor in named if _squeezed(tensor).ndim == 2}
    if len(tables) != 1:
        told = ", ".join(list(tables)[:3]) + (", ..." if len(tables) > 3 else "")
        held = f"{len(tables)} tables ({told})" if tables else "no table (L, D)"
        raise TypeError(
            f"encoding is a {type(module).__name__} that holds {held}; expected {_TABLE}: pass the tensor itself"
        )
    return next(iter(tables.values()))


def _squeezed(values: Tensor) -> Tensor:
    """(L, D) of (1, L, D) or (L, 1, D)."""
    shape = tuple(values.shape)
    return values.squeeze(shape.index(1)) if len(shape) == 3 and 1 in shape[:2] else values


def check_tokens(name: str, given: Any) -> None:
    """Tokens are a sequence of texts.

    Raises:
        TypeError: if they are not.
    """
    if isinstance(given, str):
        raise TypeError(f"{name} is one text; expected a list of texts, one a token")
    if not _is_list(given):
        raise TypeError(f"{name} is of type {type(given).__name__}; expected a list of texts, one a token")
    for token in given:
        if not isinstance(token, str):
            raise TypeError(
                f"{name} holds {type(token).__name__}; expected texts, such as tokenizer.convert_ids_to_tokens(ids) "
                "gives; numbers are token_ids"
            )


def integers_of(given: Any, name: str) -> Tensor:
    """A sequence of integers as a tensor (n,) of int64 on the CPU.

    Raises:
        TypeError: if it is none.
        ValueError: if it has other than one axis.
    """
    expected = "expected a list of integers, one a token"
    if not _is_list(given) or isinstance(given, str | bytes):
        raise TypeError(f"{name} is of type {type(given).__name__}; {expected}")
    if hasattr(given, "__array__") and not isinstance(given, Tensor):
        given = _copied(given, name)
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {reprlib.repr(given)}; {expected}") from None
    if found.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(found.shape)}; {expected}")
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise TypeError(f"{name} holds {str(found.dtype)[6:]}; {expected}")
    return found.long().cpu()


def _is_list(given: Any) -> bool:
    """It has a length and an order, and is still there when it was read once."""
    return isinstance(given, Sequence | Tensor) or (hasattr(given, "__array__") and bool(getattr(given, "ndim", 0)))
