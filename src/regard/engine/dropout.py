"""Which weights dropout keeps: a hash of the seed and of each weight's place, so that nothing has to be remembered.

The backward pass asks again and hears the same, whatever its blocks are and however many threads run. The hash is
SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014) of a counter: a few passes of
integer arithmetic in cache, where PyTorch's own generators draw one number after another in one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.engine.blocks import Room

__all__ = ["factor", "keep_block"]

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
# Each round: the high bits are folded onto the low ones, and a product carries them up again.
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)))
LAST_SHIFT = 31


def factor(dropout: float) -> float:
    """What a weight that is kept is multiplied by."""
    return 1 / (1 - dropout) if dropout < 1 else 0.0


def keep_block(
    seed: int, dropout: float, lines: Tensor, spans: Sequence[slice], key_len: int, room: Room, into: Tensor
) -> Tensor:
    """``into`` (b, h, R, C) with 1 where a weight is kept and 0 where it is dropped.

    Args:
        seed: decides all of it.
        dropout: the probability of a 0; met to a thousandth of itself, and to 2^-17, or to 2^-33.
        lines: the number of each row among the rows of every head and sequence, (b, h, R, 1) int64.
        spans: the keys of the C columns.
        key_len: S.
        room: scratch memory for int64.
        into: (b, h, R, C) of a floating dtype.
    """
    lane, bits = (torch.int16, 16) if _met_by(16, dropout) else (torch.int32, 32)
    # Numbers are signed: those below the threshold are dropped.
    threshold = min(round(dropout * (1 << bits)), (1 << bits) - 1) - (1 << (bits - 1))
    per_word = 64 // bits
    starts = lines * -(-key_len // per_word) * GOLDEN + seed  # (b, h, R, 1)
    at = 0
    for span in spans:
        first, last = span.start // per_word, -(-span.stop // per_word)
        count, skip = span.stop - span.start, span.start - first * per_word
        steps = torch.arange(first, last, device=lines.device) * GOLDEN
        words, spare = (room.take(i, *lines.shape[:3], last - first) for i in range(2))
        drawn = _mix(torch.add(starts, steps, out=words), spare).view(
            lane
        )  # (b, h, R, words) to (..., per_word * words)
        into[..., at : at + count].copy_(drawn.ge_(threshold)[..., skip : skip + count])
        at += count
    return into


def _met_by(bits: int, dropout: float) -> bool:
    """Whether so many bits make the share of the dropped, and that of the kept, right to a thousandth."""
    error = abs(round(dropout * (1 << bits)) / (1 << bits) - dropout)
    return error <= 1e-3 * min(dropout, 1 - dropout)


def _mix(words: Tensor, spare: Tensor) -> Tensor:
    """Every bit of a word made to depend on every bit of it, in place."""
    for shift, multiplier in ROUNDS:
        _fold(words, spare, shift).mul_(multiplier)
    return _fold(words, spare, LAST_SHIFT)


def _fold(words: Tensor, spare: Tensor, shift: int) -> Tensor:
    # The shift of a negative number brings in ones, which the mask takes away.
    torch.bitwise_right_shift(words, shift, out=spare).bitwise_and_((1 << (64 - shift)) - 1)
    return words.bitwise_xor_(spare)
