"""Sequences and heads: none knows of another."""

from __future__ import annotations

from dataclasses import replace

import torch

from regard.check.probe import LARGE, changed
from regard.check.properties.algebra import rounding
from regard.check.properties.numbers import compare
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation, expect, expect_near, expect_same

__all__ = [
    "check_grouped_heads",
    "check_heads_are_independent",
    "check_sequences_are_independent",
    "check_uses_context",
]

GROUP = "Sequences and heads"


@property_(group=GROUP, needs=("batch",))
def check_sequences_are_independent(subject: Subject, at: Sizes, seed: int) -> None:
    """A sequence alone gives what it gives in a batch, and nothing done to another one changes a bit of it.

    Catches: masks repeated in the order that mixes batch and heads, statistics over the batch, and axes mixed up.
    """
    at = replace(at, batch=max(2, at.batch))
    request = subject.make(at, seed)
    together = subject.answers(request).output
    for b in range(at.batch):
        others = [other for other in range(at.batch) if other != b]
        moved = request.map(lambda t, others=others: _scaled(t, others), f"# sequences {others} times 100")
        expect_same(f"sequence {b}", subject.answers(moved).output[b], together[b], request=moved)
    alone = request.map(lambda t: t[:1].contiguous(), "q, k, v = q[:1], k[:1], v[:1]")
    one = subject.answers(alone).output[0]
    expect_near("sequence 0 alone", one, together[0], rounding(request, together), request=alone)


def _scaled(t: torch.Tensor, rows: list[int]) -> torch.Tensor:
    t = t.clone()
    t[rows] *= 100
    return t


@property_(group=GROUP, rows=(21, 22), needs=("function", "batch"))
def check_heads_are_independent(subject: Subject, at: Sizes, seed: int) -> None:
    """Moving the values of one head moves the output of that head and no other.

    Catches: heads viewed without a transpose, which trained normally in FuxiCTR #30, and softmaxes over the heads.
    """
    at = subject.fits(replace(at, heads=max(2, at.heads), kv_heads=max(2, at.heads)))
    request = subject.make(at, seed)
    before = subject.answers(request).output
    for h in range(at.heads):
        value, key = request.value.clone(), request.key.clone()
        value[:, h] += LARGE
        key[:, h] *= -2
        moved = request.but(value=value, key=key, code=(*request.code, f"v[:, {h}] += {LARGE:g}", f"k[:, {h}] *= -2"))
        heads = changed(subject.answers(moved).output, before)  # (B, H, L)
        found = heads.any(-1).any(0).nonzero()[:, 0].tolist()
        expect(
            found == [h], f"keys and values of head {h} are read by heads {found}", request=moved, got=found, wanted=[h]
        )
        expect(bool(heads[:, h].all()), f"not every query of head {h} reads its values", request=moved)


@property_(group=GROUP, rows=(23,), needs=("grouped",))
def check_grouped_heads(subject: Subject, at: Sizes, seed: int) -> None:
    """With fewer key/value heads, each is read by the query heads that the convention says, and the numbers are right.

    Catches: grouped heads tiled and not interleaved (onnx PR #7274, axlearn PR #842); one group, or groups of one, as
    in most tests, cannot show it.
    """
    at = replace(at, heads=6, kv_heads=2)
    request = subject.make(at, seed)
    before = subject.answers(request).output
    convention = subject.contract.grouped or "interleaved"
    for g in range(2):
        value = request.value.clone()
        value[:, g] += LARGE
        moved = request.but(value=value, code=(*request.code, f"v[:, {g}] += {LARGE:g}"))
        found = changed(subject.answers(moved).output, before).any(-1).any(0).nonzero()[:, 0].tolist()
        want = [h for h in range(6) if (h // 3 == g if convention == "interleaved" else h % 2 == g)]
        expect(
            found == want,
            f"key/value head {g} is read by query heads {found}, not {want}",
            request=moved,
            got=found,
            wanted=want,
        )
    if subject.contract.causal != "always" and subject.supports("numbers"):
        compare(subject, request)


@property_(group=GROUP, needs=("module", "lengths"))
def check_uses_context(subject: Subject, at: Sizes, seed: int) -> None:
    """With a context of its own, keys and values come from the context, and queries from x.

    Catches: cross-attention that reads x twice, which no test with equal inputs can show.
    """
    request = subject.make(replace(at, key_len=at.key_len + 2), seed)
    before = subject.answers(request).output
    for name, moved in (("context", request.moved(slice(None), times=3.0)), ("x", _query_moved(request))):
        after = subject.answers(moved).output
        if not bool(changed(after, before).all()):
            raise Violation(f"the {name} is moved and the output is not", request=moved)


def _query_moved(request: Request) -> Request:
    return request.but(query=request.query * 3.0, code=(*request.code, "q = q * 3"))
