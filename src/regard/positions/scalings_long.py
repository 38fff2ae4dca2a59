"""How the wavelengths of rotary positions change for texts longer than those of training: YaRN and LongRoPE."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.positions import checks
from regard.positions.scalings import TRAINED, Scaling, plain_frequencies

__all__ = ["LongRoPE", "YaRN"]


@dataclass(frozen=True)
class YaRN(Scaling):
    """Long wavelengths interpolated, short ones kept, a ramp between, and scores a little sharper.

    ``theta'_i = r_i theta_i / factor + (1 - r_i) theta_i`` with ``theta_i = base^(-2 i / dim)`` and ``r_i = clamp((i -
    low) / (high - low), 0, 1)``, where ``low`` and ``high`` are the pairs that turn beta_fast and beta_slow times
    within original_len: ``dim * log(original_len / (2 pi beta)) / (2 log base)``

    >>> from regard.positions import YaRN
    >>> yarn = YaRN(4.0, 2048)  # the wavelength of the second pair is 628
    >>> yarn.frequencies(4, 10000.0)
    tensor([1.0000, 0.0063], dtype=torch.float64)
    >>> round(yarn.attention_factor, 4)  # 0.1 log 4 + 1
    1.1386

    Args:
        factor: how many times longer the texts are than those of training.
        original_len: the length of the texts of training.
        beta_fast: pairs that turn more often within original_len are kept.
        beta_slow: pairs that turn fewer times are interpolated in full.
        mscale: with mscale_all_dim, the parts of attention_factor as in DeepSeek:
            ``(0.1 mscale log(factor) + 1) / (0.1 mscale_all_dim log(factor) + 1)``.
        mscale_all_dim: see mscale; both or neither.
        attention_factor: what cos and sin are multiplied by; ``0.1 log(factor) + 1`` if nothing else is said.
        truncate: whether low is rounded down and high up, as in the paper's code.

    References:
        Peng et al., YaRN: Efficient Context Window Extension of Large Language Models, 2023.
    """

    factor: float
    original_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        for name, meaning in (
            ("factor", "how many times longer the texts are than those of training"),
            ("beta_fast", "a number of turns within original_len"),
            ("beta_slow", "a number of turns within original_len"),
        ):
            object.__setattr__(self, name, checks.check_positive(getattr(self, name), name, meaning))
        object.__setattr__(self, "original_len", checks.check_count(self.original_len, "original_len", TRAINED))
        if self.beta_slow >= self.beta_fast:
            raise ValueError(
                f"beta_slow must be below beta_fast, got {self.beta_slow} and {self.beta_fast}; the paper's are "
                "1 and 32"
            )
        if not isinstance(self.truncate, bool):
            raise TypeError(f"truncate must be True or False, got {type(self.truncate).__name__}")
        object.__setattr__(self, "attention_factor", self._attention_factor())

    def _attention_factor(self) -> float:
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError(
                f"mscale and mscale_all_dim must both be given or neither, got {self.mscale} and "
                f"{self.mscale_all_dim}; say what is meant with attention_factor=..."
            )
        logarithm = math.log(max(self.factor, 1.0))
        if self.mscale is not None:
            checks.check_positive(self.mscale, "mscale", "a part of attention_factor")
            checks.check_positive(self.mscale_all_dim, "mscale_all_dim", "a part of attention_factor")
        if self.attention_factor is not None:
            return checks.check_positive(
                self.attention_factor, "attention_factor", "what cos and sin are multiplied by"
            )
        if self.mscale is None or self.mscale_all_dim is None:
            return 0.1 * logarithm + 1.0
        return (0.1 * self.mscale * logarithm + 1.0) / (0.1 * self.mscale_all_dim * logarithm + 1.0)

    def check_dim(self, dim: int, base: float) -> None:
        """The ramp divides by log base."""
        if base <= 1:
            raise ValueError(
                f"base must be above 1 with scaling={self!r}, got {base}; the ramp divides by its logarithm"
            )

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position, (dim / 2,) float64; the same for every length."""
        self.check_dim(dim, base)
        plain = plain_frequencies(dim, base, device)
        low, high = (
            dim * math.log(self.original_len / (beta * 2 * math.pi)) / (2 * math.log(base))
            for beta in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001  # as the paper's code does
        pair = torch.arange(dim // 2, dtype=torch.float64, device=device or "cpu")
        ramp = ((pair - low) / (high - low)).clamp(0, 1)  # (dim / 2,)
        return ramp * plain / self.factor + (1 - ramp) * plain


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """Each wavelength times a number of its own, from one list for short texts and from another for long ones.

    ``theta_i = base^(-2 i / dim) / f_i`` with ``f = long`` where the text is longer than original_len, ``short`` else

    >>> from regard.positions import LongRoPE
    >>> scaling = LongRoPE([1.0, 1.0], [1.0, 4.0], 100, factor=4.0)
    >>> scaling.frequencies(4, 10000.0, 100)
    tensor([1.0000, 0.0100], dtype=torch.float64)
    >>> scaling.frequencies(4, 10000.0, 101)
    tensor([1.0000, 0.0025], dtype=torch.float64)

    The list is chosen by the length of the text at each call and by nothing that came before it. Keys in a cache keep
    the rotation of the length at which they came: a text that grows past original_len is best read again.

    Args:
        short: one number a pair, dim / 2 of them.
        long: as many.
        original_len: the length of the texts of training.
        factor: the longest text over original_len, from which attention_factor follows: ``sqrt(1 + log(factor) /
            log(original_len))``, and 1 for a factor of at most 1.
        attention_factor: what cos and sin are multiplied by, in place of factor.

    References:
        Ding et al., LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens, 2024.
    """

    short: Sequence[float]
    long: Sequence[float]
    original_len: int
    factor: float | None = None
    attention_factor: float | None = None
    needs_length = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "short", checks.check_factors(self.short, "short"))
        object.__setattr__(self, "long", checks.check_factors(self.long, "long"))
        if len(self.short) != len(self.long):
            raise ValueError(
                f"short and long must have one number a pair of columns each, got {len(self.short)} and "
                f"{len(self.long)}"
            )
        object.__setattr__(self, "original_len", checks.check_count(self.original_len, "original_len", TRAINED, 2))
        if self.factor is not None:
            factor = checks.check_positive(self.factor, "factor", "the longest text over original_len")
            object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "attention_factor", self._attention_factor())

    def _attention_factor(self) -> float:
        if self.attention_factor is not None:
            return checks.check_positive(
                self.attention_factor, "attention_factor", "what cos and sin are multiplied by"
            )
        if self.factor is None:
            raise ValueError(
                "factor or attention_factor must be given, got neither; factor is the longest text over original_len, "
                "attention_factor=1.0 leaves the scores alone"
            )
        return 1.0 if self.factor <= 1 else math.sqrt(1 + math.log(self.factor) / math.log(self.original_len))

    def check_dim(self, dim: int, base: float) -> None:
        """One number a pair."""
        if len(self.short) != dim // 2:
            raise ValueError(
                f"short and long must have one number a pair, {dim // 2} for {dim} columns that turn, got "
                f"{len(self.short)}"
            )

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position, (dim / 2,) float64, or (B, dim / 2) for lengths (B,); None is the original length."""
        self.check_dim(dim, base)
        plain = plain_frequencies(dim, base, device)
        if length is not None and not isinstance(length, Tensor) and torch.compiler.is_compiling():
            length = torch.full((), length, device=device or "cpu")  # a symbol: one graph for short texts and long
        if not isinstance(length, Tensor):
            factors = self.long if length is not None and length > self.original_len else self.short
            return plain / torch.tensor(factors, dtype=torch.float64, device=device or "cpu")
        short, long = (torch.tensor(f, dtype=torch.float64, device=device or "cpu") for f in (self.short, self.long))
        longer = (length.to(device or "cpu") > self.original_len)[..., None]  # (..., 1)
        return plain / torch.where(longer, long, short)  # (..., dim / 2)

    def regime(self, length: int) -> Hashable:
        """Whether the text is long."""
        return length > self.original_len

    def fits_table(self, length: int) -> bool:
        """Always: there are two lists, and a table of each."""
        return True
