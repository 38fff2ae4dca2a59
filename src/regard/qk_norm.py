"""Normalisation of queries and keys: before or after the rotation, of each head or of all heads together."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["HeadwiseLayerNorm", "OffsetRMSNorm", "QKNorm"]

When = Literal["before", "after"]
Over = Literal["head", "all"]


class QKNorm(nn.Module):
    """Norms of queries and keys, for ``norm=`` of :class:`regard.MultiHeadAttention`.

    ``softmax(norm_q(Q_h) norm_k(K_h)^T / sqrt(D))``: scores cannot grow without bound while a model is trained.

    >>> import torch, regard
    >>> layer = regard.MultiHeadAttention(16, 4, norm=regard.QKNorm.rms(head_dim=4))
    >>> layer(torch.rand(2, 5, 16)).shape
    torch.Size([2, 5, 16])

    Args:
        q: the norm of queries; any module that keeps the shape: :class:`torch.nn.RMSNorm`, :class:`torch.nn.LayerNorm`,
            :class:`regard.qk_norm.OffsetRMSNorm` (Gemma), :class:`regard.qk_norm.HeadwiseLayerNorm` (Cohere).
        k: the norm of keys.
        when: "before" or "after" the rotation of ``positions``.
        over: "head", the modules get (..., H, L, D) and (..., Hkv, S, D) and norm the last axis; or "all", they get all
            heads in one row, (..., L, H * D) and (..., S, Hkv * D), as OLMo 2 has it.

    Raises:
        TypeError: q or k that is no module.
        ValueError: when or over that is none of these words.

    References:
        Henry et al., Query-Key Normalization for Transformers, 2020; Dehghani et al., Scaling Vision Transformers to 22
        Billion Parameters, 2023; OLMo et al., 2 OLMo 2 Furious, 2025.
    """

    def __init__(self, q: nn.Module, k: nn.Module, *, when: When = "before", over: Over = "head") -> None:
        super().__init__()
        for name, module in (("q", q), ("k", k)):
            if not isinstance(module, nn.Module):
                raise TypeError(
                    f"QKNorm({name}): {name} must be a torch.nn.Module, got {type(module).__name__}; "
                    "QKNorm.rms(head_dim) and QKNorm.layer(head_dim) make both"
                )
        for name, word, words in (("when", when, get_args(When)), ("over", over, get_args(Over))):
            if word not in words:
                raise ValueError(f"QKNorm({name}): {name} must be {' or '.join(map(repr, words))}, got {word!r}")
        self.q, self.k, self.when, self.over = q, k, when, over

    @classmethod
    def rms(cls, head_dim: int, eps: float = 1e-6, *, when: When = "before", **options: Any) -> QKNorm:
        """RMS norms of each head, with a weight (head_dim,) for queries and one for keys; options: device, dtype."""
        return cls(nn.RMSNorm(head_dim, eps, **options), nn.RMSNorm(head_dim, eps, **options), when=when)

    @classmethod
    def layer(cls, head_dim: int, eps: float = 1e-5, *, when: When = "before", **options: Any) -> QKNorm:
        """Layer norms of each head, of a weight and a bias (head_dim,); options: bias, device, dtype."""
        return cls(nn.LayerNorm(head_dim, eps, **options), nn.LayerNorm(head_dim, eps, **options), when=when)

    def forward(self, q: Tensor | None, k: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Queries (..., H, L, D) and keys (..., Hkv, S, D) normed, in their dtype; None stays None."""
        return self._normed("q", self.q, q), self._normed("k", self.k, k)

    def _normed(self, name: str, module: nn.Module, heads: Tensor | None) -> Tensor | None:
        if heads is None:
            return None
        given = heads if self.over == "head" else heads.transpose(-3, -2).flatten(-2)  # -> (..., L, H * D)
        # Under autocast a norm may widen what a projection has rounded, or refuse to mix the two.
        out: Tensor = module(_as_weight(given, module))
        if out.shape != given.shape:
            raise ValueError(
                f"QKNorm({name}): {name} must keep the shape, got {tuple(out.shape)} from {type(module).__name__} "
                f"for {tuple(given.shape)}"
            )
        if self.over == "all":
            out = out.unflatten(-1, (heads.shape[-3], heads.shape[-1])).transpose(-3, -2)  # -> (..., H, L, D)
        return out.to(heads.dtype)

    def extra_repr(self) -> str:
        """When and over what, where they differ from the default."""
        parts = [f"when={self.when!r}"] if self.when != "before" else []
        return ", ".join(parts + ([f"over={self.over!r}"] if self.over != "head" else []))


class OffsetRMSNorm(nn.Module):
    """RMS norm with a weight that is added to 1, as Gemma has it.

    ``x / sqrt(mean(x^2) + eps) * (1 + weight)``, in float32 at least.

    >>> import torch
    >>> from regard.qk_norm import OffsetRMSNorm
    >>> OffsetRMSNorm(2, eps=0.0)(torch.tensor([3.0, -3.0])).tolist()
    [1.0, -1.0]

    Args:
        width: of the last axis.
        eps: added to the mean square.
        device: where the weight is made.
        dtype: the dtype of the weight.
    """

    def __init__(
        self,
        width: int,
        eps: float = 1e-6,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """A weight of 0: the plain RMS norm."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """X normed over its last axis, in its dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1 + self.weight.to(wide.dtype))).to(x.dtype)

    def extra_repr(self) -> str:
        """Width and eps."""
        return f"{len(self.weight)}, eps={self.eps}"


class HeadwiseLayerNorm(nn.Module):
    """Layer norm without a bias and with a weight of each head's own, as Cohere has it.

    ``(x - mean(x)) / sqrt(var(x) + eps) * weight_h``, in float32 at least.

    >>> import torch
    >>> from regard.qk_norm import HeadwiseLayerNorm
    >>> HeadwiseLayerNorm(num_heads=2, head_dim=4)(torch.rand(3, 2, 5, 4)).shape
    torch.Size([3, 2, 5, 4])

    Args:
        num_heads: H.
        head_dim: D.
        eps: added to the variance.
        device: where the weight is made.
        dtype: the dtype of the weight.

    Attributes:
        weight: (H, D).
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_heads, head_dim, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Weights of 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., H, L, D) normed over its last axis, in its dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight.to(wide.dtype)[:, None]).to(x.dtype)  # weight (H, D) -> (H, 1, D)

    def extra_repr(self) -> str:
        """Heads, width and eps."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, eps={self.eps}"


def _as_weight(x: Tensor, module: nn.Module) -> Tensor:
    """X in the dtype of the module's parameters, where autocast has made it another."""
    weight = next(module.parameters(recurse=False), None)
    if weight is None or weight.dtype == x.dtype or not weight.dtype.is_floating_point:
        return x
    return x.to(weight.dtype)
