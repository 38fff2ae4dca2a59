"""How the wavelengths of rotary positions change for texts longer than those of training: linear, dynamic, Llama 3."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.positions import checks

__all__ = ["DynamicNTK", "LinearScaling", "Llama3Scaling", "Scaling", "plain_frequencies"]

#: What original_len is, in the words of an error message.
TRAINED = "the length of the texts of training"


def plain_frequencies(dim: int, base: float | Tensor, device: torch.device | None = None) -> Tensor:
    """``base ** (-2 i / dim)`` for i = 0 .. dim / 2 - 1: (dim / 2,) float64, or (..., dim / 2) for bases (..., 1).

    >>> plain_frequencies(4, 10000.0)
    tensor([1.0000, 0.0100], dtype=torch.float64)
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device or "cpu") / dim  # (dim / 2,)
    return 1.0 / base**exponents


class Scaling(ABC):
    """The frequencies of the pairs of columns, in radians a position, and a factor for cos and sin.

    A scaling is a value: two that are equal share their tables, so a class of its own is a frozen dataclass.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from regard.positions import Rotary, Scaling
    >>> @dataclass(frozen=True)
    ... class Slow(Scaling):  # all pairs turn once a text
    ...     needs_length = True
    ...     def frequencies(self, dim, base, length=None, *, device=None):
    ...         length = torch.as_tensor(1 if length is None else length, device=device)
    ...         return 2 * torch.pi * torch.ones(dim // 2, dtype=torch.float64, device=device) / length[..., None]
    >>> Rotary(2, scaling=Slow())(torch.tensor([[1.0, 0.0]] * 2), length=2)[:, 0]  # half a turn a token
    tensor([ 1., -1.])
    """

    #: Whether frequencies depend on the length of the text; those of a class that does not say so are asked without it.
    needs_length: bool = False

    @property
    def attention_factor(self) -> float | None:
        """What cos and sin are multiplied by; the scores change by its square."""
        return 1.0

    @abstractmethod
    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position of each pair.

        Args:
            dim: how many columns turn.
            base: the base of the wavelengths.
            length: how long the text is; a tensor (B,) has one for each sequence. None unless needs_length.
            device: where they are computed; the CPU if None.

        Returns:
            (dim / 2,) float64, or (B, dim / 2).
        """

    def regime(self, length: int) -> Hashable:
        """A value that is equal for lengths with the same frequencies."""
        return length if self.needs_length else None

    def fits_table(self, length: int) -> bool:
        """Whether the frequencies at this length stay as the text grows, so that a table of them is worth keeping."""
        return not self.needs_length

    def check_dim(self, dim: int, base: float) -> None:  # noqa: B027  (nothing to refuse, unless a class says so)
        """Raise if this scaling cannot be computed for so many columns and such a base."""


@dataclass(frozen=True)
class LinearScaling(Scaling):
    """Positions divided by a factor (position interpolation).

    ``theta_i = base^(-2 i / dim) / factor``

    >>> from regard.positions import LinearScaling
    >>> LinearScaling(4.0).frequencies(4, 10000.0)
    tensor([0.2500, 0.0025], dtype=torch.float64)

    Args:
        factor: how many times longer the texts are than those of training.

    References:
        Chen et al., Extending Context Window of Large Language Models via Positional Interpolation, 2023.
    """

    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "factor", checks.check_positive(self.factor, "factor", "what positions are divided by")
        )

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position, (dim / 2,) float64; the same for every length."""
        return plain_frequencies(dim, base, device) / self.factor


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """A base that grows with the text, once it is longer than those of training.

    ``theta_i = base'^(-2 i / dim)`` with ``base' = base * (factor * n / original_len - factor + 1)^(dim / (dim - 2))``
    and ``n = max(length, original_len)``

    >>> from regard.positions import DynamicNTK
    >>> DynamicNTK(2.0, 100).frequencies(4, 10000.0, 200)  # the base is 9 times as large
    tensor([1.0000, 0.0033], dtype=torch.float64)
    >>> DynamicNTK(2.0, 100).frequencies(4, 10000.0, 90)
    tensor([1.0000, 0.0100], dtype=torch.float64)

    The frequencies depend on the length of the text at each call and on nothing that came before it. While a text
    grows, keys in a cache keep the rotation of the length at which they came, as they do elsewhere.

    Args:
        factor: how fast the base grows.
        original_len: the length of the texts of training.

    References:
        bloc97 and emozilla, NTK-aware scaled RoPE, 2023; described in Peng et al., YaRN, 2023.
    """

    factor: float
    original_len: int
    needs_length = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checks.check_positive(self.factor, "factor", "how fast the base grows"))
        object.__setattr__(self, "original_len", checks.check_count(self.original_len, "original_len", TRAINED))

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position, (dim / 2,) float64, or (B, dim / 2) for lengths (B,); None is the original length."""
        length = self.original_len if length is None else length
        if dim == 2:  # one pair, which turns by 1 whatever the base
            shape = (*length.shape, 1) if isinstance(length, Tensor) else (1,)
            return torch.ones(shape, dtype=torch.float64, device=device or "cpu")
        if not isinstance(length, Tensor) and not torch.compiler.is_compiling():
            grown = self.factor * max(length, self.original_len) / self.original_len - (self.factor - 1)
            return plain_frequencies(dim, base * grown ** (dim / (dim - 2)), device)
        if not isinstance(length, Tensor):  # a symbol of the graph
            length = torch.full((), length, dtype=torch.float64, device=device or "cpu")
        length = length.to(device or "cpu").double().clamp(min=self.original_len)
        stretch = self.factor * length / self.original_len - (self.factor - 1)  # () or (B,)
        return plain_frequencies(dim, base * stretch[..., None] ** (dim / (dim - 2)), device)  # (..., dim / 2)

    def regime(self, length: int) -> Hashable:
        """The length, where it matters."""
        return max(length, self.original_len)

    def fits_table(self, length: int) -> bool:
        """Up to the original length; past it every length has frequencies of its own."""
        return length <= self.original_len


@dataclass(frozen=True)
class Llama3Scaling(Scaling):
    """Long wavelengths stretched by a factor, short ones kept, and a blend between.

    ``theta'_i = (1 - s_i) theta_i / factor + s_i theta_i`` with ``theta_i = base^(-2 i / dim)`` and ``s_i =
    clamp((original_len * theta_i / (2 pi) - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)``

    >>> from regard.positions import Llama3Scaling
    >>> Llama3Scaling(4.0, 1.0, 4.0, 100).frequencies(4, 10000.0)
    tensor([1.0000, 0.0025], dtype=torch.float64)

    Args:
        factor: how much the long wavelengths are stretched.
        low_freq_factor: a wavelength that goes fewer times into original_len is stretched in full.
        high_freq_factor: one that goes more often into it is kept.
        original_len: the length of the texts of training.

    References:
        Grattafiori et al., The Llama 3 Herd of Models, 2024; the Llama 3.1 code.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_len: int

    def __post_init__(self) -> None:
        for name, meaning in (
            ("factor", "how much long wavelengths are stretched"),
            ("low_freq_factor", "a number of turns within original_len"),
            ("high_freq_factor", "a number of turns within original_len"),
        ):
            object.__setattr__(self, name, checks.check_positive(getattr(self, name), name, meaning))
        object.__setattr__(self, "original_len", checks.check_count(self.original_len, "original_len", TRAINED))
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor must be below high_freq_factor, got {self.low_freq_factor} and "
                f"{self.high_freq_factor}; Llama 3.1 has 1 and 4"
            )

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        """Radians a position, (dim / 2,) float64; the same for every length."""
        plain = plain_frequencies(dim, base, device)
        turns = self.original_len * plain / (2 * math.pi)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain
