"""Biases of low rank: a few more columns of query and key instead of an L x S tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard import validation
from regard.bias_columns import Bias, reads_ahead
from regard.engine.problem import compute_dtype
from regard.masks.algebra import Mask, Sizes

__all__ = ["Alibi", "Bias", "LowRank", "alibi", "low_rank"]

# ALiBi's columns are (-slope * p / UNIT, slope * UNIT) and (UNIT, j / UNIT): a power of two costs no rounding, and with
# it the positions of a million tokens are within float16.
UNIT = 64


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Bias):
    """``bias_ij = <rows_i, cols_j>``; see :func:`low_rank`."""

    rows: Tensor
    cols: Tensor

    def columns(self, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """``rows / scale`` and ``cols``, if they fit."""
        for name, t, beside, letters, other in (
            ("rows", self.rows, query, "(..., H, L, r)", "query"),
            ("cols", self.cols, key, "(..., Hkv, S, r)", "key"),
        ):
            if t.device != query.device:
                raise ValueError(
                    f"low_rank({name}): {name} must be on query's device {query.device}, got {t.device}; move it with "
                    ".to(query.device)"
                )
            if t.dtype not in (query.dtype, torch.float32):
                wanted, got = (str(dtype).removeprefix("torch.") for dtype in (query.dtype, t.dtype))
                raise TypeError(f"low_rank({name}): {name} must be {wanted} like query, or float32, got {got}")
            if not _broadcasts(t.shape[:-1], beside.shape[:-1]):
                hint = ""
                if name == "cols" and _broadcasts(t.shape[:-1], query.shape[:-2] + key.shape[-2:-1]):
                    hint = (
                        "; the heads of a group share a key, and so cols: let rows differ by query head, or pass "
                        "bias.to_dense(query_len, key_len)"
                    )
                raise ValueError(
                    f"low_rank({name}): {name} must broadcast to {letters} beside {other} {tuple(beside.shape)}, "
                    f"got {tuple(t.shape)}{hint}"
                )
        wide = compute_dtype(query.dtype)
        return self.rows.to(wide) / scale, self.cols.to(wide)

    def to_dense(self, query_len: int, key_len: int) -> Tensor:
        """``rows @ cols.mT``, (..., H, L, S)."""
        for name, t, n, argument in (
            ("rows", self.rows, query_len, "query_len"),
            ("cols", self.cols, key_len, "key_len"),
        ):
            if t.shape[-2] != n:
                raise ValueError(f"to_dense({argument}): {name} are for a length of {t.shape[-2]}, got {n}")
        cols, heads = self.cols, self.rows.shape[-3] if self.rows.dim() > 2 else 1
        if cols.dim() > 2 and 1 < cols.shape[-3] < heads:
            cols = cols.repeat_interleave(heads // cols.shape[-3], -3)  # (..., Hkv, S, r) -> (..., H, S, r)
        return self.rows @ cols.mT

    def check_mask(self, mask: Mask | None, sizes: Sizes) -> None:
        """The columns are the bias everywhere."""

    def __repr__(self) -> str:
        return f"low_rank(rank {self.rows.shape[-1]}: rows {tuple(self.rows.shape)}, cols {tuple(self.cols.shape)})"


@dataclass(frozen=True, eq=False, repr=False)
class Alibi(Bias):
    """``bias_hij = -slope_h * |p_i - j|``; see :func:`alibi`."""

    slopes: Tensor | tuple[float, ...]

    def columns(self, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """``slope * (j - p) / scale`` as columns: rows (H, L, 2 or 4), cols (1, S, 2 or 4)."""
        slopes = self._checked(query)[:, None] / scale  # (H, 1)
        query_len, key_len = query.shape[-2], key.shape[-2]
        # Positions are counted from the middle query's: the two terms that cancel are no larger than they must be, and
        # for one query the nearest keys have the smallest.
        middle = key_len - 1 - (query_len - 1) // 2
        j = torch.arange(-middle, key_len - middle, device=query.device).to(slopes.dtype) / UNIT  # (S,)
        p = torch.arange(query_len, device=query.device).double() + (key_len - query_len - middle)  # (L,)
        one, exact = torch.full_like(j, UNIT), slopes.double() * p / -UNIT  # (S,), (H, L)
        if query.dtype != torch.float32:  # float64 needs no care, and half precision gets its own
            return _stack([exact.to(slopes.dtype), slopes * UNIT], [one, j])
        # A slope of 8 bits times a position is exact in float32, in whatever order kernels add; what is left of a slope
        # is so small that its rounding is too.
        low = slopes.detach() - slopes.detach().to(torch.bfloat16)
        high = slopes - low
        first = (high.double() * p / -UNIT).to(slopes.dtype)  # (H, L)
        rest = (exact - first).detach().to(slopes.dtype)
        return _stack([first, high * UNIT, rest, low * UNIT], [one, j, one, j])

    def to_dense(self, query_len: int, key_len: int) -> Tensor:
        """``-slope_h * |p_i - j|`` on both sides of the query, (H, L, S)."""
        validation.check_lengths(query_len, key_len)
        slopes = self.slopes if isinstance(self.slopes, Tensor) else torch.tensor(self.slopes)
        p = torch.arange(key_len - query_len, key_len, device=slopes.device)
        distance = (p[:, None] - torch.arange(key_len, device=slopes.device)).abs()  # (L, S)
        return -slopes[:, None, None] * distance.to(slopes.dtype)  # (H, L, S)

    def check_mask(self, mask: Mask | None, sizes: Sizes) -> None:
        """Raise if a query reads a key after its own position, where the columns hold a reward for distance."""
        if not reads_ahead(mask, sizes):
            return
        raise ValueError(
            f"bias={self!r}: mask must let no query read past its own position, where -slope * |p - j| is not of low "
            f"rank, got mask={mask!r}; add regard.masks.causal(), or pass "
            f"bias.to_dense({sizes.query_len}, {sizes.key_len})"
        )

    def _checked(self, query: Tensor) -> Tensor:
        """The slopes (H,), float32 at least, if there is one a head."""
        heads = query.shape[-3] if query.dim() > 3 else 1
        count = len(self.slopes)
        if count != heads:
            raise ValueError(f"alibi(slopes): one slope a query head, expected H={heads}, got {count}")
        wide = compute_dtype(query.dtype)
        if not isinstance(self.slopes, Tensor):
            return torch.tensor(self.slopes, dtype=wide, device=query.device)
        if self.slopes.device != query.device:
            raise ValueError(
                f"alibi(slopes): slopes must be on query's device {query.device}, got {self.slopes.device}; move them "
                "with .to(query.device)"
            )
        return self.slopes.to(wide)

    def __repr__(self) -> str:
        if isinstance(self.slopes, Tensor):
            return f"alibi({len(self.slopes)} slopes)"
        return f"alibi({len(self.slopes)})"


def low_rank(rows: Tensor, cols: Tensor) -> LowRank:
    """A bias that is a product of two thin matrices.

    ``bias_ij = <rows_i, cols_j>``

    >>> import torch, regard
    >>> q = k = v = torch.eye(2)
    >>> recency = regard.biases.low_rank(torch.ones(2, 1), torch.tensor([[0.0], [1.0]]))  # key 1 is worth 1 more
    >>> regard.attention(q, k, v, bias=recency, scale=0.0)[0]
    tensor([[0.2689, 0.7311],
            [0.2689, 0.7311]])

    It costs r columns of query and key (6 r in half precision, whose columns hold a float32 number in three parts),
    and copies of both. Gradients reach ``rows`` and ``cols``, in the precision of query.

    Args:
        rows: (..., H or 1, L, r), for query; its dtype or float32.
        cols: (..., Hkv or 1, S, r), for key: heads that share a key share its columns.

    Raises:
        TypeError: not two tensors of floats.
        ValueError: two ranks, or fewer than two axes.
    """
    for name, t in (("rows", rows), ("cols", cols)):
        if not isinstance(t, Tensor):
            raise TypeError(f"low_rank({name}): {name} must be a torch.Tensor, got {type(t).__name__}")
        if not t.dtype.is_floating_point:
            raise TypeError(f"low_rank({name}): {name} must be floats, got {str(t.dtype)[6:]}; convert with .float()")
        if t.dim() < 2:
            raise ValueError(f"low_rank({name}): {name} must have axes (..., length, rank), got {tuple(t.shape)}")
    if rows.shape[-1] != cols.shape[-1]:
        raise ValueError(
            f"low_rank(): rows and cols must have one rank r (last axis), got {rows.shape[-1]} and {cols.shape[-1]}"
        )
    return LowRank(rows, cols)


def alibi(slopes: Tensor | int) -> Alibi:
    """ALiBi, attention with linear biases: what is further back weighs less, by a slope of each head's own.

    ``bias_hij = -slope_h * |p_i - j|`` with ``p_i = S - L + i``, the position of query i among the keys

    >>> import torch, regard
    >>> q, k, v = torch.zeros(3, 1, 2, 3, 4)
    >>> weights = regard.attention(q, k, v, regard.masks.causal(), bias=regard.biases.alibi(2))[1]
    >>> weights[0, 0, -1]  # the slopes of two heads are 1/16 and 1/256
    tensor([0.3127, 0.3328, 0.3544])

    Four columns of query and key (12 in half precision) hold ``slope * (j - p)``, the bias where ``j <= p``: the mask
    has to be causal, or to forbid all of ``j > p`` in another way. In both directions ``|p - j|`` is not of low
    rank; :meth:`Alibi.to_dense` is right there too.

    The two terms are as large as slope * L and cancel. They come before the products of query and key, split so that
    they are exact in float32, and a score is rounded like its own size: measured on CPU at up to 65,536 tokens, the
    output is off by at most 2 eps of the largest value. Two answers are not so lucky:
    :meth:`regard.AttentionWeights.entropy` is off by up to eps * slope * L, and the gradient of ``slopes``, a sum in
    which these cancel too, by 5e-5 of itself at 4,096 tokens. In half precision that gradient is noise for steep
    slopes and thousands of tokens: cast to float32 to train them.

    Args:
        slopes: (H,), positive, differentiable; or the number of query heads, for the paper's slopes: ``2 ** (-8 h /
            H)`` for h = 1 .. H, and for an H that is no power of two those of the next smaller one and every other of
            the next larger one.

    Raises:
        TypeError: neither a tensor of floats nor an integer.
        ValueError: not one axis; no heads.

    References:
        Press, Smith and Lewis, Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation,
        2022.
    """
    if not isinstance(slopes, Tensor):
        heads = validation.as_integer(slopes, "alibi(slopes): slopes", "a tensor (H,) or the number of heads")
        if heads < 1:
            raise ValueError(f"alibi(slopes): the number of heads must be at least 1, got {heads}")
        return Alibi(_slopes(heads))
    if not slopes.dtype.is_floating_point:
        raise TypeError(f"alibi(slopes): slopes must be floats, got {str(slopes.dtype)[6:]}; convert with .float()")
    if slopes.dim() != 1:
        raise ValueError(f"alibi(slopes): slopes must have shape (H,), one a query head, got {tuple(slopes.shape)}")
    return Alibi(slopes)


def _broadcasts(shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether a shape (..., length), its length given and all else 1 or as wanted, fits."""
    if len(shape) > len(wanted) or shape[-1] != wanted[-1]:
        return False
    return all(n == 1 or n == m for n, m in zip(reversed(shape), reversed(wanted), strict=False))


def _stack(rows: list[Tensor], cols: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Columns of all heads, (H, L, r), and of all keys, (1, S, r)."""
    return torch.stack(torch.broadcast_tensors(*rows), dim=-1), torch.stack(cols, dim=-1)[None]


def _slopes(heads: int) -> tuple[float, ...]:
    """The paper's slopes, from the largest on, for a power of two; and its way to fill up to any number."""
    below = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    return *slopes, *(2.0 ** (-8 * h / (2 * below)) for h in range(1, 2 * (heads - below), 2))
