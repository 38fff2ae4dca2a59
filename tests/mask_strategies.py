"""Random masks to some depth of composition, each with the booleans it must mean: from index grids, not from regard."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from tests.shapes import Shape, batch_size, broadcasting, numbers
from torch import Tensor

from regard import masks
from regard.masks import Mask


@st.composite
def masked(draw: st.DrawFn, shape: Shape, depth: int = 2) -> tuple[Mask, Tensor]:
    """A mask to ``depth`` compositions, and the booleans (B, H, L, S) it must mean."""
    kind = draw(st.sampled_from(("rule", "rule", "&", "|", "~") if depth else ("rule",)))
    if kind == "~":
        mask, allowed = draw(masked(shape, depth - 1))
        return ~mask, ~allowed
    if kind in ("&", "|"):
        (left, a), (right, b) = draw(masked(shape, depth - 1)), draw(masked(shape, depth - 1))
        return (left & right, a & b) if kind == "&" else (left | right, a | b)
    mask, allowed = RULES[draw(st.sampled_from(sorted(RULES)))](draw, shape)
    return mask, allowed.expand(batch_size(shape), shape.heads or 1, shape.query_len, shape.key_len)


def grid(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """b, h, q, kv as tensors that broadcast to (B, H, L, S)."""
    sizes = (batch_size(shape), shape.heads or 1, shape.query_len, shape.key_len)
    return tuple(torch.arange(n).view([-1 if i == axis else 1 for i in range(4)]) for axis, n in enumerate(sizes))  # type: ignore[return-value]


def _causal(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    offset = draw(st.one_of(st.none(), st.integers(-3, shape.key_len)))
    _, _, q, kv = grid(shape)
    return masks.causal(offset), kv <= q + (shape.key_len - shape.query_len if offset is None else offset)


def _band(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    left, right = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    _, _, q, kv = grid(shape)
    ahead = kv - (q + shape.key_len - shape.query_len)
    if draw(st.booleans()):
        return masks.window(left + 1), (ahead <= 0) & (ahead > -left - 1)
    return masks.band(left, right), (ahead <= right) & (ahead >= -left)


def _padding(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    b, _, _, kv = grid(shape)
    if draw(st.booleans()):
        lengths = torch.tensor([draw(st.integers(0, shape.key_len)) for _ in range(batch_size(shape))])
        return masks.padding(lengths), kv < lengths[b]
    valid = torch.rand(batch_size(shape), shape.key_len, generator=numbers(draw)) > 0.3
    return (masks.padding(valid[0]), valid[0][kv]) if draw(st.booleans()) else (masks.padding(valid), valid[b, kv])


def _documents(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    b, _, q, kv = grid(shape)
    at = q + shape.key_len - shape.query_len
    ids = torch.randint(0, 3, (batch_size(shape), shape.key_len), generator=numbers(draw))
    if draw(st.booleans()):
        ids = ids[:1].expand_as(ids)
        return masks.documents(ids[0]), (at >= 0) & (ids[b, at.clamp(min=0)] == ids[b, kv])
    return masks.documents(ids), (at >= 0) & (ids[b, at.clamp(min=0)] == ids[b, kv])


def _prefix(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    n = draw(st.integers(0, shape.key_len + 1))
    return masks.prefix(n), grid(shape)[3] < n


def _where(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    rule = draw(st.sampled_from((_by_position, _by_head, _by_batch)))
    return masks.where(rule), rule(*grid(shape))


def _by_position(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (q + kv) % 3 != 0


def _by_head(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (h + kv) % 2 == 0


def _by_batch(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return b + q >= kv


def _dense(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Tensor]:
    sizes = draw(broadcasting(shape))
    given = torch.rand(sizes, generator=numbers(draw)) > 0.4
    return masks.dense(given), as_four(given, shape)


def as_four(t: Tensor, shape: Shape) -> Tensor:
    """What broadcasts to (..., H, L, S) or (..., L, S) as (B, H, L, S)."""
    full = t.expand(shape.scores)
    return full.reshape(batch_size(shape), shape.heads or 1, shape.query_len, shape.key_len)


RULES = {rule.__name__[1:]: rule for rule in (_causal, _band, _padding, _documents, _prefix, _where, _dense)}
