"""attention(): validate, plan, run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from regard import compiled, reference, validation
from regard.bias_columns import Bias, fold
from regard.engine.autograd import attend
from regard.engine.execute import sanitize
from regard.engine.plan import make_plan
from regard.engine.problem import Options, Problem
from regard.layout import Layout
from regard.masks.algebra import Mask, Sizes
from regard.masks.lowering import lower
from regard.masks.rules import Dense
from regard.precision import outside_autocast
from regard.weights import AttentionWeights

__all__ = ["attention", "attention_weights"]


@outside_autocast
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None = None,
    *,
    bias: Tensor | Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> tuple[Tensor, AttentionWeights]:
    """Attention and its weights: the output at the speed of a fused kernel, the weights as an operator that is never
    stored.

    ``softmax(mask(cap(scale * query @ key.mT) + bias)) @ value`` where ``cap(x) = softcap * tanh(x / softcap)``.

    >>> import torch, regard
    >>> q = k = v = torch.eye(2)
    >>> output, weights = regard.attention(q, k, v, regard.masks.causal(), scale=1.0)
    >>> output
    tensor([[1.0000, 0.0000],
            [0.2689, 0.7311]])
    >>> weights.entropy()
    tensor([0.0000, 0.5822])

    Letters: B batch, H query heads, Hkv key/value heads, L queries, S keys, D key width, Dv value width. The mask is
    True = may attend. Causal masks are aligned so that the last query sees every key. A row that may read no key has
    output 0, weights 0, lse -inf (with sinks, the sink's logit) and passes gradients of 0. Keys that the mask lets no
    query read may hold anything, NaN included; a NaN in a key that some row reads can reach rows that do not. On CPU
    the work that a mask forbids is not done; on CUDA the problem goes to FlexAttention; elsewhere, in blocks of rows.

    Args:
        query: (..., H, L, D), or (N, L, D) or (L, D) without heads; float16, bfloat16, float32 or float64.
        key: (..., Hkv, S, D); H is a multiple of Hkv, and query head h reads key/value head ``h // (H // Hkv)``.
        value: (..., Hkv, S, Dv).
        mask: a :class:`regard.masks.Mask` or a boolean tensor that broadcasts to (..., H, L, S).
        bias: added to the scores after the cap; a tensor that broadcasts to (..., H, L, S), or of low rank, from
            :mod:`regard.biases`, at the cost of a few more columns of query and key.
        scale: multiplies ``query @ key.mT``; ``1 / sqrt(D)`` if None.
        softcap: the cap, positive, in units of a score.
        sinks: (H,) logits that join the denominator alone; rows then sum to less than 1.
        dropout: the probability of dropping a weight, in [0, 1]; the rest is scaled by ``1 / (1 - dropout)``.
            ``weights`` are those before dropout.
        impl: "auto" (fused where there is a fused op, blocks of rows where there is none: O(L) memory either way),
            "fused" (an error where there is none) or "reference" (the definition, with its L x S matrix;
            differentiable twice).

    Returns:
        The output (..., H, L, Dv) in query's dtype, and the :class:`regard.AttentionWeights` (..., H, L, S).

    Raises:
        TypeError: an argument of the wrong type or dtype: integer query, float mask, mixed dtypes.
        ValueError: sizes, devices or numbers that do not fit; impl="fused" without a fused op.

    References:
        Vaswani et al., Attention Is All You Need, 2017 (equation 1); Dao et al., FlashAttention, 2022 (the kernel's
        form); Gemma Team, Gemma 2, 2024 (softcap); Xiao et al., Efficient Streaming Language Models with Attention
        Sinks, 2023.
    """
    if has_torch_function((query, key, value)):  # a TorchFunctionMode that watches, or a subclass of Tensor
        options: dict[str, Any] = {
            "bias": bias,
            "scale": scale,
            "softcap": softcap,
            "sinks": sinks,
            "dropout": dropout,
            "impl": impl,
        }
        given = (query, key, value)
        answer: tuple[Tensor, AttentionWeights] = handle_torch_function(attention, given, *given, mask, **options)
        return answer
    validation.check_tensors(query, key, value)
    validation.check_impl(impl)
    if scale is not None or softcap is not None or type(dropout) is not float or dropout != 0.0:
        validation.check_number(scale, "scale")
        validation.check_number(softcap, "softcap", positive=True)
        validation.check_dropout(dropout)
    if isinstance(bias, Bias):
        mask = None if mask is None else as_mask(mask)
        query, key, scale = fold(bias, query, key, mask, scale, softcap)
        bias = None
    if torch.compiler.is_compiling():
        return compiled.attention(
            query,
            key,
            value,
            None if mask is None else as_mask(mask),
            bias=bias,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            dropout=dropout,
            impl=impl,
        )
    problem, v, layout, bound = _posed(query, key, value, mask, bias, scale, softcap, sinks, float(dropout))
    plan = make_plan(problem, v, impl)
    if problem.masked and not plan.tight:
        problem, v = sanitize(problem, v)
    if plan.kernel == "reference":
        out, lse = _by_definition(problem, v)
    else:
        # The seed is drawn from the default generator, so that torch.manual_seed decides the dropout of a run.
        seed = int(torch.randint(1 << 62, ()).item()) if dropout > 0 else 0
        out, lse = attend(problem, v, plan, seed)
    if not torch.is_grad_enabled() and problem.requires_grad:
        problem = problem.detach()  # lse carries no graph here: a gradient through q and k alone would be wrong
    return layout.unfold(out), AttentionWeights(problem, lse, layout, bound, plan)


@outside_autocast
def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Mask | Tensor | None = None,
    *,
    bias: Tensor | Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> AttentionWeights:
    """The weights alone, for a query and a key whose output somebody else computed, or nobody.

    ``softmax(mask(cap(scale * query @ key.mT) + bias))``, as :func:`regard.attention` returns them beside the output.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    >>> output = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> weights = regard.attention_weights(q, k, regard.masks.causal(offset=0))
    >>> bool(torch.allclose(weights @ v, output, atol=1e-6))
    True

    Nothing is computed before something is asked: it costs no time to have them. True in a mask = may attend, a causal
    mask lets the last query see every key, and a row that may read no key has weights 0 and lse -inf, as in
    :func:`regard.attention`.

    Args:
        query: (..., H, L, D), or (N, L, D) or (L, D) without heads; float16, bfloat16, float32 or float64.
        key: (..., Hkv, S, D); H is a multiple of Hkv, and query head h reads key head ``h // (H // Hkv)``.
        mask: a :class:`regard.masks.Mask` or a boolean tensor that broadcasts to (..., H, L, S).
        bias: added to the scores after the cap; a tensor that broadcasts to (..., H, L, S), or one of
            :mod:`regard.biases`.
        scale: multiplies ``query @ key.mT``; ``1 / sqrt(D)`` if None.
        softcap: the cap, positive, in units of a score.
        sinks: (H,) logits that join the denominator alone; rows then sum to less than 1.

    Returns:
        The :class:`regard.AttentionWeights` (..., H, L, S).

    Raises:
        TypeError: an argument of the wrong type or dtype: integer query, float mask, mixed dtypes.
        ValueError: sizes, devices or numbers that do not fit.
    """
    if has_torch_function((query, key)):
        more: dict[str, Any] = {"bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks}
        found: AttentionWeights = handle_torch_function(attention_weights, (query, key), query, key, mask, **more)
        return found
    validation.check_tensors(query, key, key)
    validation.check_number(scale, "scale")
    validation.check_number(softcap, "softcap", positive=True)
    if torch.compiler.is_compiling():
        return attention(query, key, key, mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks)[1]
    if isinstance(bias, Bias):
        mask = None if mask is None else as_mask(mask)
        query, key, scale = fold(bias, query, key, mask, scale, softcap)
        bias = None
    problem, k, layout, bound = _posed(query, key, key, mask, bias, scale, softcap, sinks, 0.0)
    if not torch.is_grad_enabled() and problem.requires_grad:
        problem = problem.detach()
    return AttentionWeights(problem, None, layout, bound, make_plan(problem, k, "auto"))


def _posed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float,
) -> tuple[Problem, Tensor, Layout, Mask | None]:
    """The problem (B, H, L, S) that these arguments pose, v (B, Hkv, S, Dv), the axes that came, and the mask."""
    layout = Layout.of(query)
    q, k, v = layout.fold(query), layout.fold(key), layout.fold(value)  # (B, H, L, D), (B, Hkv, S, D), (B, Hkv, S, Dv)
    options = Options(1 / math.sqrt(q.shape[-1]) if scale is None else float(scale), softcap, dropout=dropout)
    bound = None
    if mask is not None or bias is not None or sinks is not None:
        sizes = Sizes(layout.batch_shape, q.shape[1], q.shape[2], k.shape[2], query.device, layout.headless)
        bound = as_mask(mask).bind(sizes) if mask is not None else None
        options = Options(options.scale, softcap, dropout=options.dropout, **lower(bound, sizes))
        if bias is not None:
            bias = layout.fold_bias(validation.check_bias(bias, sizes, query.dtype))
        if sinks is not None:
            validation.check_sinks(sinks, q.shape[1], query)
    return Problem(q, k, bias, sinks, options), v, layout, bound


def as_mask(mask: Mask | Tensor) -> Mask:
    """A mask from what a user passed: a Mask as it is, a boolean tensor as a dense one."""
    if isinstance(mask, Mask):
        return mask
    validation.check_boolean_mask(mask)
    return Dense(mask)


def _by_definition(problem: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
    """:mod:`regard.reference` on a problem, accumulating half precision in float32."""
    o, wide = problem.options, torch.promote_types(v.dtype, torch.float32)
    _, _, query_len, key_len = problem.dims
    allowed = problem.allowed(slice(0, query_len), slice(0, key_len))
    out = reference.attention(
        problem.q.to(wide),
        problem.k.to(wide),
        v.to(wide),
        allowed,
        bias=problem.bias,
        scale=o.scale,
        softcap=o.softcap,
        sinks=problem.sinks,
        dropout=o.dropout,
    )
    return out.output.to(v.dtype), out.lse
