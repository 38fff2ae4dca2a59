"""Sizes, masks and scales drawn at random: what is right at the usual sizes alone is not right."""

from __future__ import annotations

import random

from regard.check.probe import pattern
from regard.check.properties.numbers import compare
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported

__all__ = ["check_any_sizes", "check_many_sizes", "check_very_long_inputs"]

GROUP = "Any sizes"


@property_(group=GROUP, needs=("numbers",))
def check_any_sizes(subject: Subject, at: Sizes, seed: int) -> None:
    """A dozen sizes drawn at random, with a mask or a scale or without, give the definition's numbers.

    Catches: what is right at the sizes of its author's tests alone: more sequences than a tile holds, a width that is
    no multiple of eight, one key.
    """
    _draw(subject, at, seed, 12)


@property_(group=GROUP, needs=("numbers",), thorough=True)
def check_many_sizes(subject: Subject, at: Sizes, seed: int) -> None:
    """The same with some hundreds of sizes.

    Catches: what a dozen draws miss.
    """
    _draw(subject, at, seed + 1, 400)


@property_(group=GROUP, needs=("numbers",), thorough=True)
def check_very_long_inputs(subject: Subject, at: Sizes, seed: int) -> None:
    """Some thousand keys, in a length that no power of two divides, give the definition's numbers.

    Catches: indices that overflow, and blocks of blocks that are merged wrongly.
    """
    lengths = (1025, 4099) if subject.supports("lengths") and subject.contract.causal != "always" else (2051, 2051)
    sizes = Sizes(
        1, at.heads if subject.kind == "module" else 2, query_len=lengths[0], key_len=lengths[1], width=at.width
    )
    compare(subject, subject.make(subject.fits(sizes), seed, size=2.0), what=f"output for S = {lengths[1]}")


def _draw(subject: Subject, at: Sizes, seed: int, times: int) -> None:
    dice = random.Random(seed)
    asked = 0
    for _ in range(times):
        sizes = _sizes(subject, at, dice)
        if subject.supports_sizes(sizes):
            request = _request(subject, sizes, dice)
            compare(subject, request, what=f"output for {sizes}")
            asked += 1
    if not asked:
        raise Unsupported("it can be called with few sizes")


def _sizes(subject: Subject, at: Sizes, dice: random.Random) -> Sizes:
    module = subject.kind == "module"
    batch = dice.randint(1, 7) if subject.supports("batch") else at.batch
    kv_heads = at.heads if module else dice.choice((1, 2, 3, 5, 6, 17))
    group = dice.choice((1, 2, 3)) if subject.supports("grouped") else 1
    query_len, key_len = dice.choice((1, 2, 3, 17, 33)), dice.choice((1, 2, 7, 19, 64, 70))
    if subject.contract.causal == "always" or not subject.supports("lengths"):
        query_len = key_len
    width = dice.choice((4, 8, 12, 20, 32, 65, 160)) if subject.supports("widths") else at.width
    value_width = dice.choice((width, 4, 24)) if subject.supports("value_width") else width
    heads = at.heads if module else kv_heads * group
    return Sizes(batch, heads, kv_heads, query_len=query_len, key_len=key_len, width=width, value_width=value_width)


def _request(subject: Subject, sizes: Sizes, dice: random.Random) -> Request:
    request = subject.make(sizes, dice.randrange(1 << 16), size=dice.choice((0.5, 1.0, 2.0)))
    reaches = [reach for reach in ("uniform", "per sequence", "per head") if subject.supports(reach)]
    # Always causal with a mask beside it is asked elsewhere, where a mask may replace causal.
    if reaches and dice.random() < 0.5 and sizes.key_len > 1 and subject.contract.causal != "always":
        request = request.but(mask=pattern(subject, dice.choice(reaches), request, dice.randrange(100)))
    if subject.supports("scale") and dice.random() < 0.3:
        request = request.but(scale=dice.uniform(0.05, 0.5))
    return request
