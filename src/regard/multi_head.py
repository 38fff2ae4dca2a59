"""Multi-head attention: one fused projection, any widths, grouped heads, a context of its own, and its options."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from regard import layer_calls, layer_checks, layer_options, layer_step
from regard.cache import KVCache, RollingCache
from regard.context import Context
from regard.functional import attention
from regard.fused_projection import FusedProjection
from regard.layer_calls import Given, Place
from regard.layer_conversions import Conversions
from regard.layout import Layout
from regard.masks.algebra import Mask
from regard.positions import Positions
from regard.projection import Projection
from regard.qk_norm import QKNorm
from regard.weights import AttentionWeights

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(Conversions):
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
    grouped heads, query head h reads key/value head ``h // (H // Hkv)``. The options make a language model's:

    >>> layer = regard.MultiHeadAttention(
    ...     256, 8, num_kv_heads=2, bias=False, mask=regard.masks.causal(),
    ...     positions=regard.positions.Rotary(32), norm=regard.QKNorm.rms(32),
    ... )
    >>> layer(x).shape
    torch.Size([32, 10, 256])

    Args:
        d_in: the width of x.
        num_heads: the number of query heads, H.
        num_kv_heads: the number of key/value heads, Hkv; num_heads if None. num_heads is a multiple of it.
        d_k: the width of all queries together; d_in if None.
        d_v: the width of all heads' outputs together; d_k if None.
        d_out: the width of the output; d_in if None.
        d_context: the width of a context that is not as wide as x, or (key width, value width) if these differ. The
            layer then has three projections in place of the fused one, and always needs a context.
        bias: whether the projections add a bias, or the names of those that do, of "q", "k", "v", "out" and "gate".
        dropout: the probability of dropping a weight, in training only.
        mask: a mask of every call (True = may attend), which ``mask=`` of a call narrows.
        positions: one of :mod:`regard.positions`: a rotation of queries and keys, or a bias of the scores.
        norm: norms of queries and keys, before or after the rotation.
        scale: multiplies Q_h K_h^T; ``1 / sqrt(D)`` if None.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: whether each head has a logit of its own that joins the denominator alone; it starts at 0.
        gate: "elementwise", each entry of the heads' outputs is multiplied by ``sigmoid(x W^G)``; "headwise", each
            head by one such number.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Attributes:
        in_proj: without d_context, the fused projection. Its rows are [q | k | v], each head after head: H * D rows for
            the queries, Hkv * D for the keys, Hkv * Dv for the values.
        q_proj, k_proj, v_proj: with d_context, or after :func:`regard.distributed.unfuse`, the same rows in three
            layers.
        out_proj: W^O, from d_v to d_out.
        sinks: (H,), or None.
        gate_proj: W^G, from d_in to d_v or H; only with a gate.

    Raises:
        TypeError: a size that is not an integer, an option of another type.
        ValueError: a size below 1, d_k or d_v not a multiple of num_heads, num_heads not a multiple of num_kv_heads, a
            dropout outside [0, 1], positions or norms that are not as wide as a head.

    References:
        Vaswani et al., Attention Is All You Need, 2017 (section 3.2.2); Ainslie et al., GQA, 2023 (grouped heads); Qiu
        et al., Gated Attention for Large Language Models, 2025 (gate). Those of the options are with them.
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
        bias: bool | Collection[Literal["q", "k", "v", "out", "gate"]] = True,
        dropout: float = 0.0,
        mask: Mask | None = None,
        positions: Positions | None = None,
        norm: QKNorm | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        gate: Literal["elementwise", "headwise"] | None = None,
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
        self.scale, self.softcap, self.dropout = layer_options.check_numbers(scale, softcap, dropout)
        self.mask, self.gate = layer_options.check_mask(mask), layer_options.check_gate(gate)
        heads = (self.num_heads, self.num_kv_heads, self.d_k // self.num_heads)
        self.positions = layer_options.check_positions(positions, *heads)
        layer_options.check_softcap(self.softcap, self.positions)
        self.norm = layer_options.check_norm(norm, *heads)
        self._biased = layer_options.check_biases(bias, ("q", "k", "v", "out", "gate"), gated=gate is not None)
        own = [name in self._biased for name in ("q", "k", "v")]
        group = self.num_heads // self.num_kv_heads
        self._rows = [self.d_k, self.d_k // group, self.d_v // group]  # of queries, keys and values
        if self.d_context is None:
            self.in_proj = FusedProjection(self.d_in, self._rows, biased=own, device=device, dtype=dtype)
        else:
            self.q_proj = Projection(self.d_in, self._rows[0], own[0], device, dtype)
            self.k_proj = Projection(self.d_context[0], self._rows[1], own[1], device, dtype)
            self.v_proj = Projection(self.d_context[1], self._rows[2], own[2], device, dtype)
        self.out_proj = Projection(self.d_v, self.d_out, "out" in self._biased, device, dtype)
        with_sinks = layer_options.check_sinks(sinks)
        self.sinks = nn.Parameter(torch.empty(self.num_heads, device=device, dtype=dtype)) if with_sinks else None
        if gate is not None:
            width = self.d_v if gate == "elementwise" else self.num_heads
            self.gate_proj = Projection(self.d_in, width, "gate" in self._biased, device, dtype)
        self._reset_own()

    def reset_parameters(self) -> None:
        """Draw new parameters as :class:`torch.nn.MultiheadAttention` does, which this layer may stand in for.

        Projections of the input are Xavier uniform, the fused one over the whole matrix of q, k and v, out_proj and
        gate_proj are as in :class:`torch.nn.Linear`; every bias and every sink is 0. norm and positions are reset by
        their own reset_parameters().
        """
        layer_options.check_reset(self, "norm", "positions")
        self._reset_own()
        for module in (self.norm, self.positions):
            if module is not None:
                layer_options.reset(module)

    def _reset_own(self) -> None:
        last: list[nn.Linear] = [self.out_proj] if self.gate is None else [self.out_proj, self.gate_proj]
        for linear in last:
            linear.reset_parameters()
        for linear in self._projections():
            nn.init.xavier_uniform_(linear.weight)
        biases: list[Tensor | None] = [linear.bias for linear in (*self._projections(), *last)]
        for zero in (*biases, self.sinks):
            if zero is not None:
                nn.init.zeros_(zero)

    @overload
    def forward(
        self,
        x: Tensor,
        context: Given = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        context: Given = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: Literal[True],
    ) -> tuple[Tensor, AttentionWeights]: ...

    def forward(
        self,
        x: Tensor,
        context: Given = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
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
            context: what keys and values are made of, (..., S, width), or a pair (key_input, value_input), or a
                :class:`regard.Context` of :meth:`project_context`; x if None.
            mask: a :class:`regard.masks.Mask`, or a boolean tensor that broadcasts to (..., H, L, S), so that one a
                sequence is (B, 1, L, S); True = may attend. It reaches every head. (n, L, S) with n = B = H may mean
                one a sequence or one a head, and is refused. A position that may read nothing has the output
                ``out_proj(0)``. With a cache it narrows what is causal, and S is the length of the text so far.
            cache: from :meth:`kv_cache` or :meth:`rolling_cache`, one a layer. It implies a causal mask.
            lengths: with a cache, how many of the L tokens are real, (B,), for prompts padded on the right; all if
                None. What comes out for padding means nothing. A bias of positions then takes B x H x L x S.
            offset: the position of x's first token, for ``positions``, an integer or integers (B,); 0 if None. With a
                cache it is the cache's length. With a context, whose first key is at 0, positions need it.
            need_weights: also return the weights; the output does not change.

        Returns:
            The output (..., L, d_out) in x's dtype; with need_weights, the output and the
            :class:`regard.AttentionWeights` (..., H, L, S). With a cache, ask them before the next call: they are
            computed from the cache's memory, and refuse once it is written to again.

        Raises:
            TypeError: x or context of another dtype than the layer or the cache, a mask that is not boolean.
            ValueError: x or context of another width than the layer's, a mask that does not broadcast, or that may
                mean two things; a cache that is full, was made for another layer or is given with a context, an offset
                or with gradients. The cache is then as it was.
        """
        if cache is not None and mask is context is lengths is offset is None and not need_weights:
            stepped = layer_step.step(self, x, cache)
            if stepped is not None:
                return stepped
        layer_checks.check_cache(cache, x, context, lengths, d_context=self.d_context)
        if layer_checks.axes(x) == 2:
            options: Any = {"mask": mask, "cache": cache, "lengths": lengths, "offset": offset}
            batched = self.forward(x[None], layer_checks.with_batch(context), need_weights=True, **options)
            out, weights = batched[0][0], batched[1]._in_layout(Layout((), headless=False))  # (1, H, L, S) -> (H, L, S)
            return (out, weights) if need_weights else out
        place = Place(cache, lengths, layer_options.check_offset(offset, cache, x))
        q, k, v, mask, bias = layer_calls.read(self, x, context, mask, place)
        heads, weights = attention(
            q,
            k,
            v,
            mask,
            bias=bias,
            scale=self.scale,
            softcap=self.softcap,
            sinks=layer_calls.local(self.sinks),
            dropout=self.dropout if self.training else 0.0,
        )
        out = self.out_proj(layer_calls.joined(self, heads, x))  # (..., H, L, Dv) -> (..., L, d_v) -> (..., L, d_out)
        return (out, weights) if need_weights else out

    def project_context(self, context: Tensor | tuple[Tensor, Tensor]) -> Context:
        """The keys and values of a context, computed once for many calls: ``layer(x, context=projected)``.

        Args:
            context: (..., S, width), or a pair (key_input, value_input).

        Returns:
            A :class:`regard.Context`, which has the gradients of what it was made of.

        Raises:
            TypeError: no tensors, or of another dtype than the layer.
            ValueError: of another width than the layer's d_context or d_in.
        """
        if layer_checks.context_axes(context) == 2:
            context = layer_checks.with_batch(context)  # (S, width) -> (1, S, width)
        return Context(*layer_calls.keys_and_values(self, context), self)

    def kv_cache(self, batch_size: int, max_len: int, *, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for this layer's keys and values, of texts of up to ``max_len`` tokens.

        ``dtype`` is the layer's if None, and autocast's where that is on; a layer of float32 may have a cache of half
        precision, and attends in it. A layer with d_context has none, since a context does not grow.
        """
        layer_checks.check_cached("kv_cache()", self.d_context)
        return KVCache(batch_size, self.num_kv_heads, max_len, *self._widths, **layer_calls.memory(self, dtype))

    def rolling_cache(
        self, batch_size: int, window: int, *, spare: int = 0, dtype: torch.dtype | None = None
    ) -> RollingCache:
        """An empty cache for this layer's last keys and values: the layer then is one with ``masks.window(window)``.

        ``dtype`` as in :meth:`kv_cache`.
        """
        layer_checks.check_cached("rolling_cache()", self.d_context)
        sizes = (batch_size, self.num_kv_heads, window, *self._widths)
        return RollingCache(*sizes, spare=spare, **layer_calls.memory(self, dtype))

    @property
    def _widths(self) -> tuple[int, int]:
        """D and Dv."""
        return self.d_k // self.num_heads, self.d_v // self.num_heads

    def _projections(self) -> tuple[nn.Linear, ...]:
        return (self.in_proj,) if self._is_fused else (self.q_proj, self.k_proj, self.v_proj)

    @property
    def _is_fused(self) -> bool:
        """Whether one module projects to queries, keys and values; :func:`regard.distributed.unfuse` makes three."""
        return "in_proj" in self._modules

    def extra_repr(self) -> str:
        """The sizes; optional ones only where they differ from the default."""
        return layer_options.describe(self)
