"""attention() in a graph that torch.compile or torch.export makes: one operator, and weights that are made later.

A rule of ``masks.where()`` is Python that no graph can hold: it is traced, and its booleans, at least L x S of them,
are made in the graph. All other masks stay what they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard import reference, validation
from regard.engine.problem import compute_dtype
from regard.layout import Layout
from regard.masks.algebra import Mask, Sizes
from regard.masks.codec import encode
from regard.operators import Call
from regard.traced_weights import TracedWeights

__all__ = ["attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | None,
    *,
    bias: Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float,
    impl: str,
) -> tuple[Tensor, TracedWeights]:
    """:func:`regard.attention` where arguments have been checked, and nothing may depend on what tensors hold."""
    layout = Layout.of(query)
    q, k, v = layout.fold(query), layout.fold(key), layout.fold(value)  # (B, H, L, D), (B, Hkv, S, D), (B, Hkv, S, Dv)
    sizes = Sizes(layout.batch_shape, q.shape[1], q.shape[2], k.shape[2], query.device, layout.headless)
    if bias is not None:
        bias = layout.fold_bias(_explicit_bias(bias, sizes, query.dtype))  # (B or 1, H or 1, L or 1, S or 1)
    if sinks is not None:
        validation.check_sinks(sinks, q.shape[1], query)
    code = encode(mask, sizes)
    # Drawn in the graph, at each run, from the default generator: torch.manual_seed decides the dropout of a run.
    seed = torch.randint(1 << 62, ()) if dropout > 0 else None
    call = Call(
        seed,
        code.tensors,
        code.numbers,
        list(layout.batch_shape),
        code.words,
        layout.headless,
        None if scale is None else float(scale),
        None if softcap is None else float(softcap),
        float(dropout),
        impl,
    )
    if impl == "reference":
        out, lse = _by_definition(q, k, v, bias, sinks, None if mask is None else mask.bind(sizes), sizes, call)
    else:
        out, lse = torch.ops.regard.attend(q, k, v, bias, sinks, *call)
    weights = TracedWeights((q, k, bias, sinks), v.shape, lse, layout, mask, call)
    return layout.unfold(out), weights


def _explicit_bias(bias: Tensor, sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """A bias with explicit axes, as validation.check_bias() gives it."""
    wanted = (*sizes.batch_shape, *(() if sizes.headless else (sizes.heads,)), sizes.query_len, sizes.key_len)
    new = len(wanted) - bias.dim()
    # Compared one by one: torch 2.13 traces `n in (1, m)` as False where n is a number and m a symbol that is equal.
    fits = new >= 0 and all(n == 1 or n == m for n, m in zip(bias.shape, wanted[new:], strict=True))
    if not fits or bias.device != sizes.device or (bias.dtype != dtype and bias.dtype != torch.float32):
        return validation.check_bias(bias, sizes, dtype)  # says what does not fit
    bias = bias.view((1,) * new + tuple(bias.shape))  # leading axes of 1
    return bias.unsqueeze(-3) if sizes.headless else bias  # (N, L, S) -> (N, 1, L, S)


def _by_definition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    mask: Mask | None,
    sizes: Sizes,
    call: Call,
) -> tuple[Tensor, Tensor]:
    """:mod:`regard.reference` traced: nothing of it is opaque to the compiler, and it has second derivatives."""
    allowed = None if mask is None else mask.block(slice(0, sizes.query_len), slice(0, sizes.key_len), sizes)
    wide = compute_dtype(q.dtype)
    given = (q.to(wide), k.to(wide), v.to(wide), allowed)
    out = reference.attention(
        *given, bias=bias, scale=call.scale, softcap=call.softcap, sinks=sinks, dropout=call.dropout
    )
    return out.output.to(v.dtype), out.lse
