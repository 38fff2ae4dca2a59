"""Multi-head latent attention: keys and values of all heads are read off one small vector a token."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from regard import latent_checks, layer_calls, layer_checks, layer_options, validation
from regard.cache_buffers import both
from regard.functional import as_mask, attention
from regard.latent_cache import LatentCache, place
from regard.latent_forms import draw, is_plain, normed, products
from regard.layer_cache import beyond_causal
from regard.layer_calls import rotated
from regard.layout import Layout
from regard.masks.algebra import Mask
from regard.positions import Positions, Rotary
from regard.projection import Projection
from regard.weights import AttentionWeights

__all__ = ["LatentAttention"]


class LatentAttention(nn.Module):
    """Multi-head attention whose keys and values are made of a latent, which alone is kept when decoding.

    ``head_h = softmax(mask(scale * (q_h k_h^T + r_h p^T))) v_h`` with ``[k_h | v_h] = c W_h`` for the latents
    ``c = norm(x W_down)``: r_h and p carry the position, p is one for all heads.

    >>> import torch, regard
    >>> layer = regard.LatentAttention(64, 4, q_rank=24, kv_rank=16, nope_dim=16, rotary_dim=8, v_dim=16)
    >>> x = torch.rand(2, 10, 64)
    >>> expected = layer(x, mask=regard.masks.causal())
    >>> cache = layer.latent_cache(2, max_len=10)  # 16 + 8 numbers a token, where keys and values of 4 heads are 160
    >>> with torch.no_grad():
    ...     parts = [layer(part, cache=cache) for part in x.split([6, 1, 1, 1, 1], dim=1)]
    >>> torch.testing.assert_close(torch.cat(parts, dim=1), expected)

    A text is read in the expanded form: keys and values of every head are made of the latents. A few tokens against a
    cache are read in the absorbed form, in which ``q_h`` goes through the keys' half of ``W_h`` and attends to the
    latents themselves: the same numbers but for rounding, and no keys or values are made. Of the two the one with fewer
    multiplications is taken; where :attr:`kv_up` was replaced or has hooks it is always the expanded one, which calls
    it.

    Args:
        d_in: the width of x.
        num_heads: H.
        q_rank: the width of the queries' latent; None for queries that are projected from x at once.
        kv_rank: R, the width of the latent of keys and values.
        nope_dim: the columns of each head's queries and keys that carry no position.
        rotary_dim: P, the columns that do.
        v_dim: Dv, the width of one head's values.
        d_out: the width of the output; d_in if None.
        bias: which projections add a bias, some of "q" (the one that reads x), "kv" (kv_down) and "out"; True is all.
        dropout: the probability of dropping a weight, in training only.
        mask: of every call, combined with the call's own by ``&``; True = may attend.
        positions: what turns the rotary columns; None is ``Rotary(rotary_dim, pairing="interleaved")``, as in the
            paper, and :class:`regard.positions.NoPositions` turns nothing.
        scale: multiplies the scores; ``1 / sqrt(nope_dim + rotary_dim)`` if None.
        eps: of the norms of the latents.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Attributes:
        q_proj: without q_rank, from x to the queries: for each head its rows [nope | rotary].
        q_down, q_norm, q_up: with q_rank, the same by way of a latent.
        kv_down: from x to [latent | rotary key], R + P.
        kv_norm: the norm of the latent.
        kv_up: from the latent to keys and values: for each head its rows [key | value].
        out_proj: from H * Dv to d_out.

    Raises:
        TypeError: a size that is not an integer; positions or a mask of another type.
        ValueError: a size below 1, a dropout outside [0, 1], positions of another width.

    References:
        DeepSeek-AI, DeepSeek-V2, 2024 (section 2.1).
    """

    def __init__(
        self,
        d_in: int,
        num_heads: int,
        *,
        q_rank: int | None = None,
        kv_rank: int,
        nope_dim: int,
        rotary_dim: int,
        v_dim: int,
        d_out: int | None = None,
        bias: bool | Collection[Literal["q", "kv", "out"]] = False,
        dropout: float = 0.0,
        mask: Mask | None = None,
        positions: Positions | None = None,
        scale: float | None = None,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = layer_checks.check_size
        self.d_in, self.num_heads = size(d_in, "d_in"), size(num_heads, "num_heads")
        self.q_rank = None if q_rank is None else size(q_rank, "q_rank")
        self.kv_rank, self.nope_dim = size(kv_rank, "kv_rank"), size(nope_dim, "nope_dim")
        self.rotary_dim, self.v_dim = size(rotary_dim, "rotary_dim"), size(v_dim, "v_dim")
        self.d_out = self.d_in if d_out is None else size(d_out, "d_out")
        biased = layer_options.check_biases(bias, ("q", "kv", "out"))
        validation.check_dropout(dropout)
        validation.check_number(scale, "scale")
        validation.check_number(eps, "eps", positive=True)
        self.dropout, self.mask = float(dropout), layer_options.check_mask(mask)
        width = self.nope_dim + self.rotary_dim
        self.scale = 1 / math.sqrt(width) if scale is None else float(scale)
        if positions is None:
            positions = Rotary(self.rotary_dim, pairing="interleaved")
        self.positions = latent_checks.check_positions(positions, self.num_heads, self.rotary_dim)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        if self.q_rank is None:
            self.q_proj = Projection(self.d_in, self.num_heads * width, "q" in biased, **made)
        else:
            self.q_down = Projection(self.d_in, self.q_rank, "q" in biased, **made)
            self.q_norm = nn.RMSNorm(self.q_rank, eps, **made)
            self.q_up = Projection(self.q_rank, self.num_heads * width, False, **made)
        self.kv_down = Projection(self.d_in, self.kv_rank + self.rotary_dim, "kv" in biased, **made)
        self.kv_norm = nn.RMSNorm(self.kv_rank, eps, **made)
        self.kv_up = Projection(self.kv_rank, self.num_heads * (self.nope_dim + self.v_dim), False, **made)
        self.out_proj = Projection(self.num_heads * self.v_dim, self.d_out, "out" in biased, **made)
        draw(self)

    def reset_parameters(self) -> None:
        """Draw new parameters: out_proj as in :class:`torch.nn.Linear`, the other projections Xavier uniform, each
        bias 0, each norm's weight 1. positions are reset by their own reset_parameters().
        """
        layer_options.check_reset(self, "q_norm", "kv_norm", "positions")
        draw(self)
        layer_options.reset(self.positions)

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | Tensor | None = None,
        cache: LatentCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | Tensor | None = None,
        cache: LatentCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: Literal[True],
    ) -> tuple[Tensor, AttentionWeights]: ...

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | Tensor | None = None,
        cache: LatentCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionWeights]:
        """Let every position of x read the positions that the mask allows.

        Args:
            x: (L, d_in), (B, L, d_in), or with more batch axes; (B, L, d_in) or (L, d_in) with a cache.
            mask: a :class:`regard.masks.Mask`, or a boolean tensor that broadcasts to (..., H, L, S); True = may
                attend. With a cache it narrows what is causal, and S is the length of the text so far. A position that
                may read nothing has the output ``out_proj(0)``.
            cache: from :meth:`latent_cache`, one a layer. It implies a causal mask, and there is no gradient then.
            lengths: with a cache, how many of the L tokens are real, (B,), for prompts padded on the right; all if
                None. What comes out for padding means nothing.
            offset: the position of the first token where there is no cache, an integer or one a sequence (B,); 0 if
                None.
            need_weights: also return the weights; the output does not change.

        Returns:
            The output (..., L, d_out) in x's dtype; with need_weights, the output and the
            :class:`regard.AttentionWeights` (..., H, L, S). With a cache, ask them before the next call.

        Raises:
            TypeError: x of another dtype than the layer or the cache, a mask that is not boolean, another cache.
            ValueError: x of another width than the layer's, a mask that does not broadcast; a cache that is full, was
                made for another layer or is given with an offset or with gradients. The cache is then as it was.
        """
        axes = layer_checks.axes(x)
        latent_checks.check_call(cache, x, lengths, (self.kv_rank, self.rotary_dim))
        layer_checks.check_input(x, self.d_in, "x", "d_in", getattr(self.kv_down, "weight", None))
        whole = x[None] if axes == 2 else x  # regard.attention() would take (H, L, D) for a batch without heads
        offset = layer_options.check_offset(offset, cache, whole)
        heads, weights = self._attend(whole, mask, cache, lengths, offset)  # (..., H, L, Dv)
        joined = heads.transpose(-3, -2).flatten(-2)  # (..., H, L, Dv) -> (..., L, H, Dv) -> (..., L, H * Dv)
        out = self.out_proj(joined)  # (..., L, H * Dv) -> (..., L, d_out)
        if axes == 2:
            out, weights = out[0], weights._in_layout(Layout((), headless=False))  # (1, H, L, S) -> (H, L, S)
        return (out, weights) if need_weights else out

    def _attend(
        self,
        x: Tensor,
        mask: Mask | Tensor | None,
        cache: LatentCache | None,
        lengths: Sequence[int] | Tensor | None,
        offset: int | Tensor | None,
    ) -> tuple[Tensor, AttentionWeights]:
        """The outputs of the heads (..., H, L, Dv), and the weights (..., H, L, S)."""
        q, q_rotary = self._queries(x)  # (..., H, L, nope), (..., H, L, P)
        down = self.kv_down(x)
        latent, k_rotary = down.split_with_sizes([self.kv_rank, self.rotary_dim], dim=-1)  # (..., L, R), (..., L, P)
        latent, k_rotary = normed(self.kv_norm, latent), k_rotary.unsqueeze(-3)  # (..., L, P) -> (..., 1, L, P)
        if cache is None:
            layer_checks.check_mask_axes(mask, self.num_heads, x, x.shape[-2])
            rule = mask if self.mask is None else both(self.mask, None if mask is None else as_mask(mask))
            q_rotary, k_rotary = rotated(self.positions, q_rotary, k_rotary, offset=0 if offset is None else offset)
            return self._expanded(q, q_rotary, latent, k_rotary, rule)
        starts, ends = cache._span(x.shape[1], lengths)
        places = {"offset": place(starts, x.device), "length": place(ends, x.device)}
        q_rotary, k_rotary = rotated(self.positions, q_rotary, k_rotary, **places)
        own = beyond_causal(self.mask)
        narrow = mask if own is None else both(own, None if mask is None else as_mask(mask))
        layer_checks.check_after_cache(self, x)
        key, value, rule = latent_checks.checked_append(
            cache, self.num_heads, latent, k_rotary.squeeze(-3), lengths, narrow
        )  # (B, 1, S, R + P), (B, 1, S, R)
        if self._absorbs(x.shape[1], key.shape[2]):
            return self._absorbed(q, q_rotary, key, value, rule)
        return self._expanded(q, q_rotary, value.squeeze(1), key[..., self.kv_rank :], rule)

    def _queries(self, x: Tensor) -> Sequence[Tensor]:
        """Queries of each head, their part without position (..., H, L, nope) and the other, (..., H, L, P)."""
        flat = self.q_proj(x) if self.q_rank is None else self.q_up(normed(self.q_norm, self.q_down(x)))
        q = flat.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (..., L, H * D) -> (..., H, L, nope + P)
        parts: Sequence[Tensor] = q.split_with_sizes([self.nope_dim, self.rotary_dim], dim=-1)
        return parts

    def _expanded(
        self, q: Tensor, q_rotary: Tensor, latent: Tensor, k_rotary: Tensor, mask: Mask | Tensor | None
    ) -> tuple[Tensor, AttentionWeights]:
        """Attention to keys and values of each head, made of the latents (..., S, R) and rotary keys (..., 1, S, P)."""
        up = self.kv_up(latent).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (..., H, S, nope + Dv)
        k, v = up.split_with_sizes([self.nope_dim, self.v_dim], dim=-1)
        k = torch.cat([k, k_rotary.expand(*k.shape[:-1], -1)], dim=-1)  # (..., H, S, nope + P)
        return self._attention(torch.cat([q, q_rotary], dim=-1), k, v, mask)

    def _absorbed(
        self, q: Tensor, q_rotary: Tensor, key: Tensor, value: Tensor, mask: Mask | Tensor | None
    ) -> tuple[Tensor, AttentionWeights]:
        """Attention to the latents themselves, which all heads share: ``q (c W)^T = (q W^T) c^T``."""
        weight = self.kv_up.weight.view(self.num_heads, -1, self.kv_rank)  # (H * (nope + Dv), R) -> (H, nope + Dv, R)
        w_key, w_value = weight.split_with_sizes([self.nope_dim, self.v_dim], dim=1)
        q = torch.einsum("bhln,hnr->bhlr", q, w_key)  # (B, H, L, nope) -> (B, H, L, R)
        seen, weights = self._attention(torch.cat([q, q_rotary], dim=-1), key, value, mask)  # (B, H, L, R)
        return torch.einsum("bhlr,hvr->bhlv", seen, w_value), weights  # (B, H, L, R) -> (B, H, L, Dv)

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | Tensor | None
    ) -> tuple[Tensor, AttentionWeights]:
        return attention(q, k, v, mask, scale=self.scale, dropout=self.dropout if self.training else 0.0)

    def _absorbs(self, query_len: int, key_len: int) -> bool:
        """Whether the absorbed form may be taken, and takes fewer multiplications for each head."""
        absorbed, expanded = products(query_len, key_len, self.kv_rank, self.nope_dim, self.rotary_dim, self.v_dim)
        return absorbed <= expanded and is_plain(self.kv_up)

    def latent_cache(self, batch_size: int, max_len: int, *, dtype: torch.dtype | None = None) -> LatentCache:
        """An empty cache for this layer, of texts of up to ``max_len`` tokens.

        ``dtype`` is the layer's if None, and autocast's where that is on. It must be that in which the layer computes:
        a cache of half precision is for a layer of it, or for autocast.
        """
        sizes = (batch_size, max_len, self.kv_rank, self.rotary_dim)
        return LatentCache(*sizes, **layer_calls.memory(self, dtype))

    def extra_repr(self) -> str:
        """The sizes; optional ones only where they differ from the default."""
        sizes = ("d_in", "num_heads", "q_rank", "kv_rank", "nope_dim", "rotary_dim", "v_dim", "d_out", "mask")
        parts = [f"{name}={getattr(self, name)}" for name in sizes if getattr(self, name) is not None]
        if self.scale != 1 / math.sqrt(self.nope_dim + self.rotary_dim):
            parts.append(f"scale={self.scale:.4g}")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        return ", ".join(parts)
