"""What positions are asked with: every error message, with the argument, what came and what was expected."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__: list[str] = []

#: Angles are computed in float64, which knows every integer up to this one.
MOST = 2**53


def name_of(dtype: torch.dtype) -> str:
    """A dtype as a word."""
    return str(dtype).removeprefix("torch.")


def integer(value: Any) -> int | None:
    """An integer of any kind, numpy's too, as an int; None for what is none."""
    if isinstance(value, bool | Tensor):  # both have an index
        return None
    if isinstance(value, int | torch.SymInt):
        return value  # type: ignore[return-value]  # as it is: in a graph it may stand for a number
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_even(value: Any, name: str, most: int | None = None, hint: str = "") -> int:
    """An even width of at least 2, and at most ``most``."""
    width = integer(value)
    if width is None:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if width < 2 or width % 2:
        raise ValueError(f"{name} must be an even number of at least 2, got {width}; columns turn in pairs{hint}")
    if most is not None and width > most:
        raise ValueError(f"{name} must be at most dim={most}, the width of a head, got {width}")
    return width


def check_base(base: float) -> float:
    """The base of the wavelengths is a finite number above 0."""
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise TypeError(f"base must be a number, got {type(base).__name__}")
    if not 0 < base < float("inf"):
        raise ValueError(f"base must be a positive finite number, got {base}; the paper's is 10000")
    return float(base)


def check_positive(value: Any, name: str, meaning: str) -> float:
    """A positive finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be a positive finite number, got {value}; it is {meaning}")
    return number


def check_count(value: Any, name: str, meaning: str, least: int = 1) -> int:
    """An integer of at least ``least``."""
    count = integer(value)
    if count is None:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}; it is {meaning}")
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}; it is {meaning}")
    return count


def check_factors(values: Any, name: str) -> tuple[float, ...]:
    """A list of positive finite numbers."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list of numbers, one a pair of columns, got {type(values).__name__}")
    if not values:
        raise ValueError(f"{name} must be a list of numbers, one a pair of columns, got none")
    return tuple(check_positive(v, f"{name}[{i}]", "what a wavelength is multiplied by") for i, v in enumerate(values))


def check_embeddings(x: Any, d_model: int, device: torch.device) -> None:
    """Floating-point embeddings (..., L, d_model)."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        got = name_of(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor of embeddings, got {got}")
    if x.dim() < 2 or x.shape[-1] != d_model:
        raise ValueError(f"x must have shape (..., L, d_model) with d_model={d_model}, got {tuple(x.shape)}")
    if x.device != device:
        raise ValueError(f"x must be on the module's device {device}, got {x.device}; move it with .to(...)")


def check_turned(x: Any, name: str, dim: int) -> None:
    """Floating-point queries or keys (..., L, D)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} must be a floating-point tensor, got {name_of(x.dtype)}")
    if x.dtype.itemsize < 2:
        raise TypeError(
            f"{name} must be of float16, bfloat16, float32 or float64, got {name_of(x.dtype)}; turn it before it is "
            "rounded to 8 bits"
        )
    if x.dim() < 2 or x.shape[-1] != dim:
        hint = "; dim is the width of one head" if x.dim() >= 2 and x.shape[-1] % dim == 0 else ""
        raise ValueError(f"{name} must have shape (..., L, D) with D = dim = {dim}, got {tuple(x.shape)}{hint}")


def per_sequence(given: Any, name: str, x: Tensor, x_name: str) -> int | Tensor:
    """A position or a length: an integer; or an integer tensor, 0-dim for all, or (B,) for each sequence."""
    if not isinstance(given, Tensor):
        position = integer(given)
        if position is None:
            raise TypeError(f"{name} must be an integer or an integer tensor, got {type(given).__name__}")
        if isinstance(position, int) and abs(position) > MOST:
            raise ValueError(f"{name} must be at most 2**53 in size, as far as float64 counts, got {position}")
        return position
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer or an integer tensor, got {name_of(given.dtype)}")
    each: Tensor = given.long()  # a position of few bits and a length do not add up in as few
    if each.dim() == 0:
        return each
    if each.dim() == 1 and each.shape[0] == 1:
        return each[0]  # () : for all
    if given.dim() != 1 or x.dim() < 3 or given.shape[0] != x.shape[0]:
        wanted = f"(B,) = ({x.shape[0]},)" if x.dim() > 2 else "() or (1,)"
        raise ValueError(
            f"{name} must be an integer, or one for each sequence of {x_name} (its first axis): expected shape "
            f"{wanted} beside {x_name} {tuple(x.shape)}, got {tuple(given.shape)}"
        )
    return each


def is_zero(offset: Any) -> bool:
    """Whether an offset is 0 for all sequences; False where a tensor cannot be looked at."""
    if not isinstance(offset, Tensor):
        return offset is None or integer(offset) == 0
    if torch.compiler.is_compiling() or offset.is_meta or type(offset) is not Tensor:
        return False
    return not offset.any()


def check_offset(offset: Any, length: int, max_len: int, batch_shape: tuple[int, ...], longer: str) -> None:
    """Positions [offset, offset + length) are among max_len; ``longer`` says how there could be more."""
    if isinstance(offset, Tensor):
        if offset.dtype.is_floating_point or offset.dtype.is_complex or offset.dtype == torch.bool:
            raise TypeError(f"offset must be an integer or an integer tensor, got {name_of(offset.dtype)}")
        if offset.dim() and tuple(offset.shape) != batch_shape:
            raise ValueError(
                f"offset must be an integer, or one for each sequence of x: expected shape {batch_shape}, "
                f"got {tuple(offset.shape)}"
            )
        if torch.compiler.is_compiling() or offset.is_meta or type(offset) is not Tensor:
            # What it holds is not known yet: a graph asks when it runs.
            inside = ((offset >= 0) & (offset.long() + length <= max_len)).all()
            torch._assert_async(inside, f"offset must lie in [0, max_len - L] = [0, {max_len} - L]")
            return
        low, high = (int(offset.min()), int(offset.max())) if offset.numel() else (0, 0)
    else:
        position = integer(offset)
        if position is None:
            raise TypeError(f"offset must be an integer or an integer tensor, got {type(offset).__name__}")
        low = high = position
    if torch.compiler.is_compiling() and (low < 0 or high + length > max_len):  # numbers of a graph have no digits
        raise ValueError("offset must lie in [0, max_len - L]; call the module without torch.compile for the numbers")
    if low < 0:
        raise ValueError(f"offset must be at least 0, got {low}")
    if high + length > max_len:
        raise ValueError(
            f"positions up to offset + L = {high} + {length} = {high + length} are past the limit max_len={max_len}; "
            f"make the table longer: {longer.format(high + length)}"
        )


def rows_at(table: Tensor, offset: Any, x: Tensor, longer: str) -> Tensor:
    """Rows of positions offset .. offset + L - 1 of a table (max_len, d_model), once they are found to be there."""
    length = x.shape[-2]
    check_offset(offset, length, table.shape[0], tuple(x.shape[:-2]), longer)
    if isinstance(offset, Tensor):
        index = offset.long()[..., None] + torch.arange(length, device=offset.device)  # (L,) or (B, L)
        return table[index.to(table.device)]  # (L, d_model) or (B, L, d_model)
    start = operator.index(offset) if not isinstance(offset, int | torch.SymInt) else offset
    return table[start : start + length]  # (L, d_model)
