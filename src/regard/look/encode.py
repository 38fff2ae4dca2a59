"""Numbers as few bytes: weights and what keys receive on a logarithmic scale, entropies on a linear one."""

from __future__ import annotations

import base64
import math
import zlib

import torch
from torch import Tensor

from regard.look.extras import extra

#: Codes of a weight: 0 is forbidden, 1 is FLOOR or less, 255 is 1, and equal steps of code are equal ratios of weight.
FORBIDDEN = 0
FLOOR = 1e-5
LEAST, MOST = 1, 255

#: The code that the highest value has.
FULL = 65535

#: How hard the bytes are deflated. Codes of weights are close to noise: more effort is time for nothing.
LEVEL = 6

#: The weight that the 16-bit code 1 stands for, or less than it.
FINE_FLOOR = 1e-9


def weight_codes(values: Tensor, allowed: Tensor) -> Tensor:
    """Weights as codes, each within 2.3 % of its weight.

    code = 1 + 254 * log(weight / FLOOR) / log(1 / FLOOR)

    Example:
        >>> import torch
        >>> from regard.look.encode import weight_codes
        >>> weight_codes(torch.tensor([0.0, 1e-5, 1.0, 0.0]), torch.tensor([True, True, True, False])).tolist()
        [1, 1, 255, 0]

    Args:
        values: weights of any shape, 0 to 1.
        allowed: booleans of the same shape, or one that broadcasts to it.

    Returns:
        uint8 of the same shape.
    """
    per_log = (MOST - LEAST) / math.log(1 / FLOOR)
    codes = values.nan_to_num(0.0).clamp_(FLOOR, 1.0).log_().mul_(per_log).add_(MOST).round_()
    return codes.masked_fill_(~allowed, FORBIDDEN).to(torch.uint8)


def fine_codes(values: Tensor, allowed: Tensor) -> Tensor:
    """Weights as 16-bit codes, each within 0.02 % of its weight; int32, because torch's uint16 has few operations.

    code = 1 + 65534 * log(weight / FINE_FLOOR) / log(1 / FINE_FLOOR)

    Example:
        >>> import torch
        >>> from regard.look.encode import fine_codes
        >>> fine_codes(torch.tensor([0.0, 1e-9, 1.0, 0.0]), torch.tensor([True, True, True, False])).tolist()
        [1, 1, 65535, 0]

    Args:
        values: weights of any shape, 0 to 1.
        allowed: booleans of the same shape, or one that broadcasts to it.

    Returns:
        int32 of the same shape.
    """
    # In float64: float32 resolves log(1e-9) to a tenth of a code only.
    per_log = (FULL - LEAST) / math.log(1 / FINE_FLOOR)
    codes = values.double().nan_to_num(0.0).clamp_(FINE_FLOOR, 1.0).div_(FINE_FLOOR).log_().mul_(per_log).add_(LEAST)
    return codes.round_().masked_fill_(~allowed, FORBIDDEN).to(torch.int32)


def log_codes(values: Tensor, highest: float) -> Tensor:
    """Values from 0 to the highest as 16-bit codes, each within 0.02 % of its value: those of :func:`fine_codes`.

    Example:
        >>> import torch
        >>> from regard.look.encode import log_codes
        >>> log_codes(torch.tensor([0.0, 8e-9, 8.0]), 8.0).tolist()
        [0, 1, 65535]

    Args:
        values: of any shape; what is not finite counts as 0, whose code is 0.
        highest: the value of the code FULL; less than FINE_FLOOR of it has code 1.

    Returns:
        int32 of the same shape.
    """
    share = values.nan_to_num(0.0, 0.0, 0.0).double() / (highest if highest > 0 else 1.0)
    return fine_codes(share, share > 0)


def linear_codes(values: Tensor, highest: float) -> Tensor:
    """Values from 0 to the highest as 16-bit codes, 0 to FULL; int32, because torch's uint16 has few operations.

    Args:
        values: of any shape; what is not finite counts as 0.
        highest: the value of the code FULL.

    Returns:
        int32 of the same shape.
    """
    share = values.nan_to_num(0.0, 0.0, 0.0).double() / (highest if highest > 0 else 1.0)
    return (share.clamp(0.0, 1.0) * FULL).round().to(torch.int32)


def words(codes: Tensor) -> bytes:
    """16-bit codes as little-endian bytes."""
    array: bytes = codes.numpy().astype(extra("numpy").dtype("<u2")).tobytes()
    return array


def longs(values: Tensor) -> bytes:
    """Counts and positions as little-endian 32-bit integers; -1 as 0xFFFFFFFF."""
    array: bytes = values.cpu().numpy().astype(extra("numpy").dtype("<i4")).tobytes()
    return array


def floats(values: Tensor) -> bytes:
    """Numbers as little-endian float32; what is not finite as 0."""
    finite = values.float().nan_to_num(0.0, 0.0, 0.0).cpu()
    array: bytes = finite.numpy().astype(extra("numpy").dtype("<f4")).tobytes()
    return array


def octets(codes: Tensor) -> bytes:
    """8-bit codes as bytes."""
    array: bytes = codes.contiguous().numpy().tobytes()
    return array


def packed(content: bytes) -> str:
    """Bytes as text: deflated, then in base64."""
    return base64.b64encode(zlib.compress(content, LEVEL)).decode("ascii")
