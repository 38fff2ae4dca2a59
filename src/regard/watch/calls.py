"""One call of attention, whoever was called: what its weights are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard import AttentionWeights
from regard.masks import Mask

if TYPE_CHECKING:
    from regard.biases import Bias

__all__ = ["Call", "Given", "Lazy"]


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that masks, and how it is read.

    kind is "allow" (boolean, True = may attend), "forbid" (boolean, True = may not), or "float" (added to the scores;
    -inf forbids). ``shaped`` brings it to axes that broadcast to (..., H, L, S); ``along_keys`` says that it is (B, S).
    """

    kind: str
    tensor: Tensor
    shaped: Callable[[Tensor], Tensor] | None = None
    along_keys: bool = False

    def __str__(self) -> str:
        name = {"allow": "bool", "forbid": "bool, True forbids", "float": "float"}[self.kind]
        return f"{'padding' if self.along_keys else 'dense'}({name} {tuple(self.tensor.shape)})"


@dataclass(frozen=True, eq=False)
class Lazy:
    """What is worked out when the weights are asked for: more of a bias, a factor of scale, a softcap."""

    allowed: Tensor | None = None
    bias: Tensor | None = None
    factor: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """A call as it was seen: query is (..., H, L, D), key (..., Hkv, S, D).

    Attributes:
        function: what was called.
        mask: what masks it, as a rule.
        given: what masks it, as tensors.
        bias: added to the scores.
        scale: multiplies query @ key.mT; ``1 / sqrt(D)`` if None.
        appended: keys at the end that the layer made itself, and that no mask forbids.
        cast: what query and key are rounded to before they are multiplied: autocast's dtype.
        lazily: works out more of the scores from query and key, when the weights are asked for.
        lazy_name: what that is called.
        also: tensors that rules of the mask, or ``lazily``, read.
        answer: the weights, where the call returned them.
        refusal: why there are no weights.
    """

    function: str
    query: Tensor
    key: Tensor
    mask: Mask | None = None
    given: tuple[Given, ...] = ()
    bias: Tensor | Bias | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    appended: int = 0
    cast: torch.dtype | None = None
    lazily: Callable[[Tensor, Tensor], Lazy] | None = None
    lazy_name: str = ""
    also: tuple[Tensor, ...] = ()
    answer: AttentionWeights | None = None
    refusal: str | None = None

    @property
    def shape(self) -> torch.Size:
        """(..., H, L, S)."""
        if self.answer is not None:
            return self.answer.shape
        return torch.Size((*lead(self.query, self.key), self.query.shape[-2], self.key.shape[-2]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which query and key are multiplied."""
        return self.query.dtype if self.cast is None or self.query.dtype == torch.float64 else self.cast

    def describe_mask(self) -> str:
        """What masks it, in a few words; nothing is computed."""
        parts = [] if self.mask is None else [repr(self.mask)]
        parts += [str(given) for given in self.given]
        if self.bias is not None:
            parts.append(f"bias {tuple(self.bias.shape) if isinstance(self.bias, Tensor) else repr(self.bias)}")
        if self.lazy_name:
            parts.append(self.lazy_name)
        if self.softcap is not None:
            parts.append(f"softcap {self.softcap:g}")
        if self.sinks is not None:
            parts.append("sinks")
        return " & ".join(parts) or "none"


def lead(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """The axes of the weights before the last two: batch axes and heads, of both tensors."""
    q, k = query.shape[:-2], key.shape[:-2]
    if q == k:
        return tuple(q)
    if grouped(query, key):
        k = torch.Size((*k[:-1], q[-1]))
    # torch.broadcast_shapes takes as long as everything else that is done with a call.
    axes = zip_longest(reversed(q), reversed(k), fillvalue=1)
    return tuple(b if a == 1 else a for a, b in axes)[::-1]


def grouped(query: Tensor, key: Tensor) -> bool:
    """Whether several query heads read one key head."""
    return query.dim() > 2 and key.dim() > 2 and query.shape[-3] != key.shape[-3] and query.shape[-3] != 1
