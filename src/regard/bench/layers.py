"""`regard.MultiHeadAttention` beside `nn.MultiheadAttention`, with the same parameters on the same input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

import regard
from regard import reference
from regard.bench.case import Bar, Case, Disagreement, Duel
from regard.bench.compare import within_budget
from regard.bench.timing import Subject

__all__ = ["CASES", "layer_duel"]

# Two products of 512 terms may sum in another order: in parts, as MKL does, or in one run, as oneDNN does, which is off
# by up to twice as much. What is twice that is wrong.
ORDERS = 4

Work = Literal["output", "weights", "mean", "training"]
# What each side is asked to end with, so that both do the same work.
WORDS: dict[Work, str] = {
    "output": "the output",
    "weights": "the output and the dense weights of each head",
    "mean": "the output and the dense weights, averaged over the heads",
    "training": "the output and the gradients of input and parameters",
}


def layer_duel(
    work: Work, batch: int = 8, query_len: int = 128, d_model: int = 512, num_heads: int = 8, *, causal: bool = False
) -> Duel:
    """Self-attention over (batch, query_len, d_model) in float32; inference is in eval mode and inference_mode.

    Args:
        work: what both sides end with: "output"; "weights" of each head, dense; their "mean" over the heads; or
            "training", the output and the gradients of input and parameters.
        batch: B.
        query_len: L.
        d_model: width of the input and the output.
        num_heads: H.
        causal: both with a causal mask; for "output" alone.
    """
    if causal and work != "output":
        raise ValueError(f"causal: got work={work!r}; expected 'output'")
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, batch, query_len, d_model, generator=generator).unbind()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = nn.MultiheadAttention(d_model, num_heads, batch_first=True)
    ours = regard.MultiHeadAttention.from_torch(theirs)
    subject_name, peer_name = "regard.MultiHeadAttention", "nn.MultiheadAttention"
    if work == "training":
        ours.train()
        theirs.train()
        runs = (
            partial(_step, ours, grad),
            partial(_step, lambda x: theirs(x, x, x, need_weights=False)[0], grad),
        )

        def check_step() -> str:
            truth = _truth(theirs, x, grad)
            got = _gradients(ours, ("in_proj.weight", "out_proj.weight"), runs[0], x)
            peer = _gradients(theirs, ("in_proj_weight", "out_proj.weight"), runs[1], x)
            names = (
                "output",
                "gradient of the input",
                "gradient of the projections in",
                "gradient of the projection out",
            )
            used = max(within_budget(*each, times=ORDERS) for each in zip(names, got, peer, truth, strict=True))
            return f"output and gradients against float64: {used:.2f} of the budget"

        return Duel(
            Subject(subject_name, runs[0], partial(_fresh, ours, x)),
            Subject(peer_name, runs[1], partial(_fresh, theirs, x)),
            check_step,
        )
    ours.eval()
    theirs.eval()
    # True = may attend; torch's own layer takes the opposite.
    mask = torch.ones(query_len, query_len, dtype=torch.bool).tril() if causal else None  # (L, L)
    run_ours, run_theirs = partial(_infer, ours, work, causal), partial(_infer_torch, theirs, work, mask)

    def check() -> str:
        truth = _truth(theirs, x, None, work, mask)
        names = ("output", "weights")
        pairs = zip(names, run_ours(x), run_theirs(x), truth, strict=False)
        used = max(within_budget(name, got, peer, true, times=ORDERS) for name, got, peer, true in pairs)
        return f"{WORDS[work]} against float64: {used:.2f} of the budget"

    return Duel(
        Subject(subject_name, lambda _: run_ours(x)),
        Subject(peer_name, lambda _: run_theirs(x)),
        check,
    )


@torch.inference_mode()
def _infer(layer: regard.MultiHeadAttention, work: Work, causal: bool, x: Tensor) -> tuple[Tensor, ...]:
    if work == "output":
        return (layer(x, mask=regard.masks.causal() if causal else None),)
    output, weights = layer(x, need_weights=True)
    dense = weights.to_dense()  # (B, H, L, L)
    return output, dense.mean(1) if work == "mean" else dense


@torch.inference_mode()
def _infer_torch(layer: nn.MultiheadAttention, work: Work, mask: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    if work == "output":
        forbidden = None if mask is None else ~mask
        return (layer(x, x, x, need_weights=False, attn_mask=forbidden, is_causal=mask is not None)[0],)
    return tuple(layer(x, x, x, need_weights=True, average_attn_weights=work == "mean"))


def _fresh(layer: nn.Module, x: Tensor) -> Tensor:
    layer.zero_grad(set_to_none=True)
    return x.detach().requires_grad_()


def _step(forward: Callable[[Tensor], Tensor], grad: Tensor, x: Tensor) -> Tensor:
    output = forward(x)
    output.backward(grad)
    return output


def _gradients(
    layer: nn.Module, projections: tuple[str, str], run: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, ...]:
    x = _fresh(layer, x)
    output = run(x).detach()
    found = [output, x.grad, *(layer.get_parameter(name).grad for name in projections)]
    if any(tensor is None for tensor in found):
        raise Disagreement("backward() left no gradient on the input or a projection")
    return tuple(tensor for tensor in found if tensor is not None)


def _truth(
    layer: nn.MultiheadAttention,
    x: Tensor,
    grad: Tensor | None,
    work: Work = "training",
    mask: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The definition in float64, from the parameters of the torch layer."""
    exact = copy.deepcopy(layer).double()
    x = x.double().requires_grad_()
    projected = nn.functional.linear(x, exact.in_proj_weight, exact.in_proj_bias)
    # (B, L, 3 * E) -> three of (B, H, L, E / H)
    q, k, v = (part.unflatten(-1, (exact.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    result = reference.attention(q, k, v, mask)
    output = exact.out_proj(result.output.transpose(1, 2).flatten(2))
    if grad is not None:
        gradients = torch.autograd.grad(output, (x, exact.in_proj_weight, exact.out_proj.weight), grad.double())
        return (output.detach(), *gradients)
    weights = result.weights.mean(1) if work == "mean" else result.weights
    return output.detach(), weights.detach()


def _case(name: str, work: Work, what: str, bar: Bar) -> Case:
    return Case(
        name,
        "layers",
        f"MultiHeadAttention (8, 128, 512), 8 heads, {what}",
        partial(layer_duel, work),
        (bar,),
    )


CASES = (
    _case("layer", "output", "inference", Bar("speedup", at_least=1.3)),
    _case("layer-weights", "weights", "inference with each head's dense weights", Bar("ratio", 1)),
    _case("layer-mean", "mean", "inference with the heads' mean weights", Bar("ratio", 1)),
    _case("layer-training", "training", "training step", Bar("speedup", at_least=1.1)),
)
