"""Multi-head attention: one fused projection, any widths, grouped heads, a context of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from regard import layer_checks, layer_loading, validation
from regard.cache import KVCache, RollingCache
from regard.functional import attention
from regard.layer_loading import Parameters, Triple
from regard.layout import Layout
from regard.masks.algebra import Mask
from regard.projection import Projection, linear
from regard.weights import AttentionWeights

__all__ = ["MultiHeadAttention"]

Context = Tensor | tuple[Tensor, Tensor] | None


class MultiHeadAttention(nn.Module):
    """Multi-head attention: several attentions side by side, each with its own projections.

    ``Concat(head_1, ..., head_H) W^O`` with ``head_h = softmax(mask(Q_h K_h^T / sqrt(D))) V_h``.

    >>> import torch, regard
    >>> layer = regard.MultiHeadAttention(d_in=256, num_heads=8)
    >>> x = torch.rand(32, 10, 256)
    >>> output, weights = layer(x, mask=regard.masks.causal(), need_weights=True)
    >>> output.shape, weights.shape
    (torch.Size([32, 10, 256]), torch.Size([32, 8, 10, 10]))
    >>> layer(x, context=torch.rand(32, 50, 256)).shape
    torch.Size([32, 10, 256])

    d_k and d_v are totals over the query heads, as in the paper: one head is D = d_k / H and Dv = d_v / H wide. With
    grouped heads, query head h reads key/value head ``h // (H // Hkv)``.

    Args:
        d_in: the width of x.
        num_heads: the number of query heads, H.
        num_kv_heads: the number of key/value heads, Hkv; num_heads if None. num_heads is a multiple of it.
        d_k: the width of all queries together; d_in if None.
        d_v: the width of all heads' outputs together; d_k if None.
        d_out: the width of the output; d_in if None.
        d_context: the width of a context that is not as wide as x, or (key width, value width) if these differ. The
            layer then has three projections in place of the fused one, and always needs a context.
        bias: whether the projections add a bias.
        dropout: the probability of dropping a weight, in training only.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Attributes:
        in_proj: without d_context, the fused projection. Its rows are [q | k | v], each head after head: H * D rows for
            the queries, Hkv * D for the keys, Hkv * Dv for the values.
        q_proj, k_proj, v_proj: with d_context, the same rows in three layers.
        out_proj: W^O, from d_v to d_out.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, d_k or d_v not a multiple of num_heads, num_heads not a multiple of num_kv_heads, a
            dropout outside [0, 1].

    References:
        Vaswani et al., Attention Is All You Need, 2017 (section 3.2.2); Ainslie et al., GQA, 2023 (grouped heads).
    """

    def __init__(
        self,
        d_in: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        d_k: int | None = None,
        d_v: int | None = None,
        d_out: int | None = None,
        d_context: int | tuple[int, int] | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = layer_checks.check_size
        self.d_in, self.num_heads = size(d_in, "d_in"), size(num_heads, "num_heads")
        self.num_kv_heads = self.num_heads if num_kv_heads is None else size(num_kv_heads, "num_kv_heads")
        self.d_k = self.d_in if d_k is None else size(d_k, "d_k")
        self.d_v = self.d_k if d_v is None else size(d_v, "d_v")
        self.d_out = self.d_in if d_out is None else size(d_out, "d_out")
        self.d_context = layer_checks.check_d_context(d_context)
        layer_checks.check_heads(self.num_heads, self.num_kv_heads, d_k=self.d_k, d_v=self.d_v)
        validation.check_dropout(dropout)
        self.dropout = float(dropout)
        group = self.num_heads // self.num_kv_heads
        self._rows = [self.d_k, self.d_k // group, self.d_v // group]  # of queries, keys and values
        if self.d_context is None:
            self.in_proj = Projection(self.d_in, sum(self._rows), bias, device, dtype)
        else:
            self.q_proj = Projection(self.d_in, self._rows[0], bias, device, dtype)
            self.k_proj = Projection(self.d_context[0], self._rows[1], bias, device, dtype)
            self.v_proj = Projection(self.d_context[1], self._rows[2], bias, device, dtype)
        self.out_proj = Projection(self.d_v, self.d_out, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters as :class:`torch.nn.MultiheadAttention` does, which this layer may stand in for.

        Projections of the input are Xavier uniform, the fused one over the whole matrix of q, k and v, and out_proj is
        as in :class:`torch.nn.Linear`; every bias is 0.
        """
        self.out_proj.reset_parameters()
        for projection in self._projections():
            nn.init.xavier_uniform_(projection.weight)
        biases: list[Tensor | None] = [projection.bias for projection in (*self._projections(), self.out_proj)]
        for bias in biases:
            if bias is not None:
                nn.init.zeros_(bias)

    @overload
    def forward(
        self,
        x: Tensor,
        context: Context = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        need_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        context: Context = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        need_weights: Literal[True],
    ) -> tuple[Tensor, AttentionWeights]: ...

    def forward(
        self,
        x: Tensor,
        context: Context = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionWeights]:
        """Let every position of x read the positions of the context, or of x itself, that the mask allows.

        With a cache, x holds the next L tokens of each sequence: they are appended, and read what of the text so far is
        not later than themselves. There is no gradient then.

        >>> import torch, regard
        >>> layer, x = regard.MultiHeadAttention(16, 4), torch.rand(2, 10, 16)
        >>> cache = layer.kv_cache(2, max_len=10)
        >>> with torch.no_grad():
        ...     parts = [layer(part, cache=cache) for part in x.split([6, 1, 3], dim=1)]
        >>> torch.testing.assert_close(torch.cat(parts, dim=1), layer(x, mask=regard.masks.causal()))

        Args:
            x: (L, d_in), (B, L, d_in), or with more batch axes; (B, L, d_in) or (L, d_in) with a cache.
            context: what keys and values are made of, (..., S, width), or a pair (key_input, value_input); x if None.
            mask: a :class:`regard.masks.Mask`, or a boolean tensor that broadcasts to (..., H, L, S), so that one a
                sequence is (B, 1, L, S); True = may attend. It reaches every head. (n, L, S) with n = B = H may mean
                one a sequence or one a head, and is refused. A position that may read nothing has the output
                ``out_proj(0)``. With a cache it narrows what is causal, and S is the length of the text so far.
            cache: from :meth:`kv_cache` or :meth:`rolling_cache`, one a layer. It implies a causal mask.
            lengths: with a cache, how many of the L tokens are real, (B,), for prompts padded on the right; all if
                None. What comes out for padding means nothing.
            need_weights: also return the weights; the output does not change.

        Returns:
            The output (..., L, d_out) in x's dtype; with need_weights, the output and the
            :class:`regard.AttentionWeights` (..., H, L, S). With a cache, ask them before the next call: they are
            computed from the cache's memory, and refuse once it is written to again.

        Raises:
            TypeError: x or context of another dtype than the layer or the cache, a mask that is not boolean.
            ValueError: x or context of another width than the layer's, a mask that does not broadcast, or that may
                mean two things; a cache that is full, was made for another layer or is given with a context or with
                gradients. The cache is then as it was.
        """
        layer_checks.check_cache(cache, x, context, lengths)
        if layer_checks.axes(x) == 2:
            out, weights = self._unbatched(x, context, mask=mask, cache=cache, lengths=lengths)
            return (out, weights) if need_weights else out
        q, k, v = self._project(x, context)  # (..., L, H * D), (..., S, Hkv * D), (..., S, Hkv * Dv)
        if cache is None:
            layer_checks.check_mask_axes(mask, self.num_heads, x, k.shape[-2])
        d, dv = self.d_k // self.num_heads, self.d_v // self.num_heads
        q = q.view(*q.shape[:-1], self.num_heads, d).transpose(-3, -2)  # -> (..., L, H, D) -> (..., H, L, D)
        k = k.view(*k.shape[:-1], self.num_kv_heads, d).transpose(-3, -2)  # -> (..., Hkv, S, D)
        v = v.view(*v.shape[:-1], self.num_kv_heads, dv).transpose(-3, -2)  # -> (..., Hkv, S, Dv)
        if cache is not None:
            k, v, mask = layer_checks.checked_append(cache, self.num_heads, x, k, v, lengths, mask)  # (B, Hkv, S, D)
        heads, weights = attention(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        joined = heads.transpose(-3, -2).flatten(-2)  # (..., H, L, Dv) -> (..., L, H, Dv) -> (..., L, d_v)
        out = self.out_proj(joined)  # (..., L, d_v) -> (..., L, d_out)
        return (out, weights) if need_weights else out

    def _project(self, x: Tensor, context: Context) -> Sequence[Tensor]:
        """Queries (..., L, H * D), keys (..., S, Hkv * D) and values (..., S, Hkv * Dv) of all heads."""
        if self.d_context is not None:
            layer_checks.check_input(x, self.d_in, "x", "d_in", self.q_proj.weight)
            inputs = layer_checks.check_context(context, x, self.d_context, "d_context", self.q_proj.weight)
            return self.q_proj(x), self.k_proj(inputs[0]), self.v_proj(inputs[1])
        weight: Tensor = self.in_proj.weight
        bias: Tensor | None = self.in_proj.bias
        layer_checks.check_input(x, self.d_in, "x", "d_in", weight)
        if context is None:
            projected: Tensor = self.in_proj(x)
            # One split and not three slices: its gradient is one concatenation and not a sum of three padded tensors.
            return projected.split_with_sizes(self._rows, dim=-1)  # (..., L, H * D + Hkv * D + Hkv * Dv) -> three
        inputs = layer_checks.check_context(context, x, (self.d_in, self.d_in), "d_in", weight)
        weights = weight.split_with_sizes(self._rows)
        biases = (None, None, None) if bias is None else bias.split_with_sizes(self._rows)
        return [linear(*each) for each in zip((x, *inputs), weights, biases, strict=True)]

    def kv_cache(self, batch_size: int, max_len: int) -> KVCache:
        """An empty cache for this layer's keys and values, of texts of up to ``max_len`` tokens."""
        d, dv, like = self.d_k // self.num_heads, self.d_v // self.num_heads, self.out_proj.weight
        return KVCache(batch_size, self.num_kv_heads, max_len, d, dv, dtype=like.dtype, device=like.device)

    def rolling_cache(self, batch_size: int, window: int, *, spare: int = 0) -> RollingCache:
        """An empty cache for this layer's last keys and values: the layer then is one with ``masks.window(window)``."""
        d, dv, like = self.d_k // self.num_heads, self.d_v // self.num_heads, self.out_proj.weight
        sizes = (batch_size, self.num_kv_heads, window, d, dv)
        return RollingCache(*sizes, spare=spare, dtype=like.dtype, device=like.device)

    def _unbatched(self, x: Tensor, context: Context, **options: Any) -> tuple[Tensor, AttentionWeights]:
        """:meth:`forward` for x (L, d_in): regard.attention() would take (H, L, D) for a batch without heads."""
        one_each = layer_checks.with_batch(context)  # (S, width) -> (1, S, width)
        out, weights = self.forward(x[None], one_each, need_weights=True, **options)  # x (L, d_in) -> (1, L, d_in)
        one = Layout((), headless=False)  # (1, H, L, S) -> (H, L, S)
        return out[0], weights._in_layout(one)

    def _projections(self) -> tuple[nn.Linear, ...]:
        return (self.in_proj,) if self.d_context is None else (self.q_proj, self.k_proj, self.v_proj)

    @classmethod
    def from_heads(
        cls, heads: Sequence[nn.Module | Triple], out_proj: nn.Linear, *, dropout: float = 0.0
    ) -> MultiHeadAttention:
        """The layer that computes what these heads compute: ``out_proj(Concat(head_1(x), ..., head_H(x)))``.

        >>> import torch, regard
        >>> heads = [regard.SelfAttention(16, 4, 2) for _ in range(3)]
        >>> out_proj = torch.nn.Linear(3 * 2, 5)
        >>> layer = regard.MultiHeadAttention.from_heads(heads, out_proj)
        >>> x = torch.rand(2, 7, 16)
        >>> bool(torch.allclose(layer(x), out_proj(torch.cat([head(x) for head in heads], dim=-1)), atol=1e-6))
        True

        The parameters are copies. Where some heads have a bias and others not, the latter get a bias of 0.

        Args:
            heads: for each head its projections, as (Wq, Wk, Wv) or as an object with these attributes, each a
                :class:`torch.nn.Linear`: Wq and Wk to the width D, Wv to Dv. Wk and Wv may read another width than Wq,
                which is then the layer's d_context.
            out_proj: W^O, from H * Dv to the width of the output.
            dropout: as for the layer.

        Raises:
            TypeError: something that is not a :class:`torch.nn.Linear`.
            ValueError: no heads, heads that differ in their widths, an out_proj that does not take H * Dv, mixed dtypes
                or devices.
        """
        return cls._of(layer_loading.of_heads(heads, out_proj), dropout)

    @classmethod
    def from_torch(cls, layer: nn.MultiheadAttention) -> MultiHeadAttention:
        """The layer that computes what a :class:`torch.nn.MultiheadAttention` computes, with copies of its parameters.

        >>> import torch, regard
        >>> theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        >>> ours = regard.MultiHeadAttention.from_torch(theirs)
        >>> x = torch.rand(2, 7, 16)
        >>> bool(torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6))
        True

        What differs in use:

        - x is (B, L, d_in), whatever ``batch_first`` said: an input of a layer with ``batch_first=False`` is given as
          ``x.transpose(0, 1)``. ``theirs(query, key, value)`` is ``ours(query, (key, value))``.
        - True in a mask = may attend: ``attn_mask=m`` is ``mask=~m``, and ``key_padding_mask=m`` is
          ``mask=masks.padding(~m)``. A position that may read no key has weights 0, where torch may give NaN.
        - the weights are those of each head, where torch gives their mean unless asked.

        kdim and vdim become d_context. dropout, dtype, device, requires_grad and training mode are kept.

        Args:
            layer: the layer to copy.

        Raises:
            TypeError: layer is not a :class:`torch.nn.MultiheadAttention`.
            ValueError: it was made with ``add_bias_kv`` or ``add_zero_attn``, which add a key that no mask covers.
        """
        return cls._of(layer_loading.of_torch(layer), layer.dropout).train(layer.training)

    @classmethod
    def _of(cls, given: Parameters, dropout: float) -> MultiHeadAttention:
        wq, wk, wv = given.weights
        layer = cls(
            wq.shape[1],
            given.num_heads,
            d_k=wq.shape[0],
            d_v=wv.shape[0],
            d_out=given.out_weight.shape[0],
            d_context=(wk.shape[1], wv.shape[1]) if given.own_context else None,
            bias=given.biases is not None,
            dropout=dropout,
            device="meta",  # neither memory nor random numbers for parameters that are replaced
        )
        groups = [(0, 1, 2)] if layer.d_context is None else [(0,), (1,), (2,)]
        for projection, group in zip(layer._projections(), groups, strict=True):
            projection.weight = _joined([given.weights[i] for i in group])
            if given.biases is not None:
                projection.bias = _joined([given.biases[i] for i in group])
        layer.out_proj.weight = _joined([given.out_weight])
        layer.out_proj.register_parameter("bias", None if given.out_bias is None else _joined([given.out_bias]))
        return layer

    def extra_repr(self) -> str:
        """The sizes; optional ones only where they differ from the default."""
        parts = [f"d_in={self.d_in}, num_heads={self.num_heads}"]
        if self.num_kv_heads != self.num_heads:
            parts.append(f"num_kv_heads={self.num_kv_heads}")
        parts.append(f"d_k={self.d_k}, d_v={self.d_v}, d_out={self.d_out}")
        if self.d_context is not None:
            parts.append(f"d_context={self.d_context}")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        return ", ".join(parts)


def _joined(parts: Sequence[Tensor]) -> nn.Parameter:
    """Copies of the rows of several tensors as one parameter."""
    return nn.Parameter(torch.cat([part.detach() for part in parts]), any(part.requires_grad for part in parts))
