"""Training, evaluation and dropout."""

from __future__ import annotations

import math

import torch

from regard.check.probe import changed, leaves
from regard.check.properties.algebra import rounding
from regard.check.properties.weights import plain_causal_masked
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation, expect, expect_near, expect_same

__all__ = [
    "check_dropout_drops_weights",
    "check_dropout_gradient",
    "check_dropout_is_unbiased",
    "check_dropout_survives_a_round_trip",
    "check_eval_is_deterministic",
    "check_train_equals_eval",
]

GROUP = "Training and dropout"
RATE = 0.3


@property_(group=GROUP, rows=(26,), needs=("module",))
def check_eval_is_deterministic(subject: Subject, at: Sizes, seed: int) -> None:
    """In evaluation mode the output is the same at each call, and the dropout rate has no effect.

    Catches: F.dropout without training=self.training (timm PR #1978, torchtune #1791).
    """
    request = subject.make(at, seed)
    want = subject.answers(request).output
    for _ in range(3):
        got = subject.answers(request.but(dropout=0.5)).output
        expect_same("output in evaluation mode with a dropout of 0.5", got, want, request=request.but(dropout=0.5))


@property_(group=GROUP, rows=(5, 10), needs=("module",))
def check_train_equals_eval(subject: Subject, at: Sizes, seed: int) -> None:
    """With a dropout of 0 training and evaluation give the same, up to rounding, plain, causal and masked.

    Catches: a fast path for inference with rules of its own (pytorch PR #190486, #97111).
    """
    for request in plain_causal_masked(subject, at, seed):
        with torch.no_grad():
            fast = subject.answers(request).output
        slow = subject.answers(request).output
        train = subject.answers(request.but(training=True)).output
        for name, got in (("with gradients", slow), ("in training mode", train)):
            within = rounding(request, fast)
            expect_near(f"output {name}, against evaluation", got, fast, within, request=request.but(training=True))


@property_(group=GROUP, rows=(27,), needs=("dropout", "module"))
def check_dropout_survives_a_round_trip(subject: Subject, at: Sizes, seed: int) -> None:
    """Training, evaluation and training again: dropout is active, off, and active again.

    Catches: a rate that evaluation sets to 0 for good (Megatron-LM PR #411).
    """
    request = subject.make(at, seed)
    active = request.but(dropout=0.5, training=True)

    def random() -> bool:
        one, other = subject.answers(active, seed=1).output, subject.answers(active, seed=2).output
        return bool(changed(one, other).any())

    with subject.held(0.5):  # set once: whoever sets it to 0 in evaluation is not helped
        if not random():
            raise Violation("a dropout of 0.5 changes nothing in training mode", request=active)
        subject.answers(request)
        expect(random(), "dropout is off after one call in evaluation mode", request=active)


def _active(subject: Subject, at: Sizes, seed: int, dtype: torch.dtype | None = None) -> Request:
    request = subject.make(at, seed, dtype=dtype).but(dropout=RATE, training=subject.kind == "module")
    one, other = (subject.answers(request, seed=n).output for n in (1, 2))
    if torch.equal(one, other):
        raise Violation(f"a dropout of {RATE} drops nothing: two seeds give the same output", request=request)
    return request


@property_(group=GROUP, rows=(28,), needs=("dropout",))
def check_dropout_is_unbiased(subject: Subject, at: Sizes, seed: int) -> None:
    """The mean over many dropout masks is the output without dropout.

    Catches: weights that are dropped and not scaled up, or scaled by p and not 1 - p (apex PR #816).
    """
    if subject.kind == "module":
        subject.require("numbers")  # what is not linear after the weights has another mean
    request = _active(subject, at, seed)
    want = subject.answers(request.but(dropout=0.0)).output.detach().double()
    rounds = 300
    draws = torch.stack([subject.answers(request, seed=1000 + n).output.detach().double() for n in range(rounds)])
    # Each number is a mean of 300 independent draws. Six standard errors hold for all of some hundred numbers but
    # once in a million runs; the floor is for numbers that hardly vary.
    within = 6 * draws.std(0) / math.sqrt(rounds) + 1e-3 * want.abs().max()
    factor = float((draws.mean(0) * want).sum() / want.square().sum().clamp_min(1e-30))
    what = f"mean over {rounds} draws of a dropout of {RATE}, {factor:.1f} times the output without dropout"
    expect_near(what, draws.mean(0), want, within, request=request)


@property_(group=GROUP, rows=(28,), needs=("dropout", "function"))
def check_dropout_drops_weights(subject: Subject, at: Sizes, seed: int) -> None:
    """Dropout acts on single weights: equal columns of values stay equal, and no two heads or sequences share it.

    Catches: dropout on the output in place of the weights, and one draw that is broadcast over heads or sequences.
    """
    request = _active(subject, at, seed)
    columns = request.value[..., :1].expand(request.value.shape).contiguous()
    equal = request.but(value=columns, code=(*request.code, "v = v[..., :1].expand(v.shape).contiguous()"))
    output = subject.answers(equal, seed=1).output
    expect_near(
        "columns of the output where those of the values are equal", output, output[..., :1].expand(output.shape),
        rounding(request, output), request=equal,
    )  # fmt: skip
    if request.query.shape[:2].numel() < 4 or request.key_len < 4:
        return
    code = "q, k, v = (t[:1, :1].expand(t.shape) for t in (q, k, v))"
    same = request.map(lambda t: t[:1, :1].expand(t.shape).contiguous(), code)
    drawn = subject.answers(same, seed=1).output
    for axis, name in ((0, "sequences"), (1, "heads")):
        if drawn.shape[axis] > 1 and not bool(changed(drawn, drawn.narrow(axis, 0, 1).expand(drawn.shape)).any()):
            raise Violation(f"all {name} drop the same weights: one draw is shared", request=same)


@property_(group=GROUP, rows=(28,), needs=("dropout", "gradients", "float64"))
def check_dropout_gradient(subject: Subject, at: Sizes, seed: int) -> None:
    """The gradient is that of the very forward pass: the same weights dropped, the same factor.

    Catches: a backward pass that draws another mask, or scales by p (apex PR #816).
    """
    request = _active(subject, at, seed, torch.float64)
    asked, tensors = leaves(request)
    output = subject.answers(asked, seed=5).output
    if not output.requires_grad:
        raise Violation("the output with dropout has no gradient: it is detached from its inputs", request=request)
    toward = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    found = torch.autograd.grad(output, list(tensors.values()), toward, allow_unused=True)
    # Central differences are good to step ** 2 and to the precision over the step, relative to the size of the sum.
    step, share = (1e-5, 1e-5) if subject.contract.float64 != "float32" else (1e-2, 1e-2)
    for name, gradient in zip(tensors, found, strict=True):
        if gradient is None:
            raise Violation(f"no gradient of {name} with dropout", request=request)
        way = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed + 1)).to(gradient)

        def along(amount: float, name: str = name, way: torch.Tensor = way) -> float:
            tied = {"qkv": ("query", "key", "value"), "kv": ("key", "value")}.get(request.tied, (name,))
            names = tied if name in tied else (name,)
            new = getattr(request, name) + amount * way
            moved = request.but(**dict.fromkeys(names, new))
            return float((subject.answers(moved, seed=5).output.detach() * toward).sum())

        slope = (along(step) - along(-step)) / (2 * step)
        got = float((gradient * way).sum())
        within = share * max(1.0, abs(slope), float(gradient.norm() * way.norm()))
        if not abs(got - slope) <= within:
            raise Violation(
                f"gradient of {name} with dropout: the slope along a direction is {slope:.6g}, it says {got:.6g}",
                request=request, got=got, wanted=slope,
            )  # fmt: skip
