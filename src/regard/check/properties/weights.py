"""The weights that come back: those that made the output."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from regard.check.definition import allowed_by
from regard.check.properties.algebra import rounding
from regard.check.properties.causality import causal
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, expect, expect_near, expect_shape

__all__ = ["check_asking_for_weights_changes_nothing", "check_weights_match_output"]

GROUP = "Weights"


def plain_causal_masked(subject: Subject, at: Sizes, seed: int) -> list[Request]:
    """Plain, causal and masked."""
    plain = subject.make(at, seed)
    found = [plain]
    with contextlib.suppress(Unsupported):
        found.append(causal(subject, plain))
    if subject.supports("uniform"):
        keep = torch.ones(1, 1, at.query_len, at.key_len, dtype=torch.bool, device=plain.query.device)
        keep[..., at.key_len // 2] = False
        if subject.contract.causal != "always":
            found.append(plain.but(mask=keep))
    return found


@property_(group=GROUP, rows=(6, 7), needs=("weights option",))
def check_asking_for_weights_changes_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """The output is the same, up to rounding, whether the weights are asked for or not.

    Catches: is_causal ignored if need_weights is on (pytorch #99282): another path, another mask.
    """
    for request in plain_causal_masked(subject, at, seed):
        without = subject.answers(request).output
        output = subject.answers(request.but(weights=True)).output
        within = rounding(request, without)
        expect_near("output with weights, against without", output, without, within, request=request.but(weights=True))


@property_(group=GROUP, needs=("weights",))
def check_weights_match_output(subject: Subject, at: Sizes, seed: int) -> None:
    """The weights that come back, (..., H, L, S), sum to 1, are 0 where forbidden, and times the values are the output.

    Catches: scores returned for weights, weights before the mask, of another head order, or averaged over the heads.
    """
    for request in plain_causal_masked(subject, at, seed):
        asked = request.but(weights=True)
        answer = subject.answers(asked)
        weights = answer.weights
        expect(weights is not None, "no weights came back, although they did when tried first", request=asked)
        assert weights is not None
        heads = getattr(subject, "heads", None) or request.query.shape[1]
        shape = (request.query.shape[0], heads, request.query_len, request.key_len)
        expect_shape("weights", weights, torch.empty(shape), asked)
        within = rounding(request, weights.new_ones(1))
        sums = weights.double().sum(-1)
        expect_near("sums of the weights over the keys", sums, torch.ones_like(sums), within, request=asked)
        expect(
            bool((weights >= 0).all()),
            "weights are negative",
            request=asked,
            got=float(weights.detach().min()),
            wanted=0,
        )
        allowed = allowed_by(asked.but(query=weights), subject.contract)
        if allowed is not None:
            forbidden = weights.masked_fill(allowed.expand(weights.shape), 0)
            expect_near("weights of forbidden keys", forbidden, torch.zeros_like(weights), 0.0, request=asked)
        got, want = subject.numbers(asked), _product(subject, weights.double(), request)
        if want is not None:
            expect_near("output, against weights @ values", got, want, rounding(request, want), request=asked)


def _product(subject: Subject, weights: Tensor, request: Request) -> Tensor | None:
    """Weights @ values, through the projections of a module; None where they are not known."""
    if not subject.supports("numbers"):
        return None

    def core(r: Request, contract: object) -> Tensor:
        group = weights.shape[1] // r.value.shape[1]
        tiled = subject.contract.grouped == "tiled"
        v = r.value.repeat(1, group, 1, 1) if tiled else r.value.repeat_interleave(group, 1)
        return weights @ v

    return subject.imagine(core, request)
