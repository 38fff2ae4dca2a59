"""Who reads whom, found by moving inputs and comparing bits; see properties.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.properties import LARGE, Attention, assert_near, check, problem, seeded
from torch import Tensor

from regard import masks
from regard.masks import Mask


def reads(attention: Attention, mask: Mask | Tensor | None, query_len: int, key_len: int, **options: Any) -> Tensor:
    """Which query reads which key, (L, S), found by moving one value at a time."""
    q, k, v = problem(1, 2, query_len=query_len, key_len=key_len)
    base = seeded(attention, q, k, v, mask, **options)[0]
    found = torch.zeros(query_len, key_len, dtype=torch.bool)
    for j in range(key_len):
        moved = v.clone()
        moved[..., j, :] += LARGE
        found[:, j] = (seeded(attention, q, k, moved, mask, **options)[0] != base).flatten(0, 1).any(0).any(-1)
    return found


def reads_exactly(attention: Attention, mask: Mask | Tensor | None, allowed: Tensor, **options: Any) -> None:
    found = reads(attention, mask, *allowed.shape, **options)
    check(torch.equal(found, allowed), f"reads\n{found.int()}\nexpected\n{allowed.int()}")


def last_query_sees_every_key(attention: Attention, query_len: int, key_len: int) -> None:
    allowed = torch.ones(query_len, key_len, dtype=torch.bool).tril(key_len - query_len)
    reads_exactly(attention, masks.causal(), allowed)


def the_future_changes_nothing(attention: Attention, query_len: int, key_len: int, **options: Any) -> None:
    """Keys and values after position p moved far away: outputs up to it are the same bits."""
    q, k, v = problem(2, 2, query_len=query_len, key_len=key_len)
    base, base_weights = seeded(attention, q, k, v, masks.causal(), **options)
    for row in range(0, query_len, max(1, query_len // 4)):
        end = max(0, row + key_len - query_len + 1)  # the first key that `row` may not read
        moved_k, moved_v = k.clone(), v.clone()
        moved_k[..., end:, :] *= -LARGE
        moved_v[..., end:, :] += LARGE
        out, weights = seeded(attention, q, moved_k, moved_v, masks.causal(), **options)
        check(
            torch.equal(out[..., : row + 1, :], base[..., : row + 1, :]), f"keys from {end} moved the output of {row}"
        )
        check(torch.equal(weights.lse[..., : row + 1], base_weights.lse[..., : row + 1]), f"... and its lse ({row})")


def padding_changes_nothing(
    attention: Attention, lengths: Tensor, query_len: int, key_len: int, **options: Any
) -> None:
    """Padded keys and values moved far away: the whole output is the same bits."""
    q, k, v = problem(len(lengths), 2, query_len=query_len, key_len=key_len)
    mask = masks.padding(lengths)
    base = seeded(attention, q, k, v, mask, **options)[0]
    padded = (torch.arange(key_len) >= lengths[:, None])[:, None, :, None]  # (B, 1, S, 1)
    out = seeded(attention, q, torch.where(padded, k * LARGE, k), torch.where(padded, v + LARGE, v), mask, **options)[0]
    check(torch.equal(out, base), f"padding moved the output by {(out - base).abs().max().item():.3g}")


def unread_keys_leave_no_trace(
    attention: Attention, mask: Mask, query_len: int, key_len: int, poison: float, **options: Any
) -> None:
    """Keys that nobody may read and queries that read nothing hold ``poison``: all is as with zeros there."""
    allowed = mask.to_dense(query_len, key_len, batch=2, num_heads=2)
    allowed = allowed.expand(2, 2, query_len, key_len)
    unread, idle = ~allowed.any(2)[..., None], ~allowed.any(3)[..., None]  # (B, H, S, 1), (B, H, L, 1)
    check(unread.any() or idle.any(), "this mask leaves nothing unread: the property could not fail")
    results = []
    for filling in (0.0, poison):
        q, k, v = problem(2, 2, query_len=query_len, key_len=key_len)
        k, v, q = k.masked_fill(unread, filling), v.masked_fill(unread, filling), q.masked_fill(idle, filling)
        q, k, v = (t.requires_grad_() for t in (q, k, v))
        output, weights = seeded(attention, q, k, v, mask, **options)
        lse = weights.lse
        gradients = torch.autograd.grad(output.sum() + lse[torch.isfinite(lse)].sum(), (q, k, v))
        results.append((output, lse, *gradients))
    for name, clean, got in zip(("output", "lse", "query", "key", "value"), *results, strict=True):
        check(
            torch.equal(clean, got),
            f"{poison} where nobody reads changes {name if name in ('output', 'lse') else 'd' + name}",
        )


def empty_rows_follow_the_contract(
    attention: Attention, mask: Mask | Tensor, query_len: int, key_len: int, **options: Any
) -> None:
    """A row without keys: output 0, weights 0, lse -inf (or the sink), no gradient through it, no NaN."""
    dense = mask if isinstance(mask, Tensor) else mask.to_dense(query_len, key_len)
    empty = ~dense.any(-1).expand(2, 2, query_len)
    check(empty.any(), "this mask has no empty row: the property could not fail")
    q, k, v = (t.requires_grad_() for t in problem(2, 2, query_len=query_len, key_len=key_len))
    output, weights = seeded(attention, q, k, v, mask, **options)
    check(torch.isfinite(output).all(), "output is not finite")
    check((output[empty] == 0).all(), "the output of an empty row is not 0")
    check((weights[...][empty] == 0).all(), "the weights of an empty row are not 0")
    sinks = options.get("sinks")
    lse = torch.full((2, 2, query_len), -torch.inf) if sinks is None else sinks[:, None].expand(2, 2, query_len)
    check(
        torch.equal(weights.lse[empty], lse[empty].to(weights.lse)), f"the lse of an empty row is {weights.lse[empty]}"
    )
    for name, gradient in zip("qkv", torch.autograd.grad((output * LARGE).sum(), (q, k, v)), strict=True):
        check(torch.isfinite(gradient).all(), f"d{name} is not finite")
        if name == "q":
            check((gradient[empty] == 0).all(), "a gradient passes through an empty row")


def grouped_heads_are_interleaved(attention: Attention, heads: int, kv_heads: int, mask: Mask | None = None) -> None:
    """Query head h reads key/value head h // (H // Hkv) and no other."""
    q, k, v = problem(1, heads, query_len=6, key_len=6, kv_heads=kv_heads)
    base = attention(q, k, v, mask)[0]
    for g in range(kv_heads):
        moved = v.clone()
        moved[:, g] += LARGE
        readers = (attention(q, k, moved, mask)[0] != base).any(-1).any(-1)[0].nonzero()[:, 0].tolist()
        group = heads // kv_heads
        check(readers == list(range(g * group, (g + 1) * group)), f"key head {g} is read by query heads {readers}")


def sequences_are_independent(
    attention: Attention, mask: Callable[[slice], Mask | Tensor | None], **options: Any
) -> None:
    """Each sequence alone gives what it gives in the batch; ``mask(part)`` is the mask of a part of the batch."""
    q, k, v = problem(3, 2, query_len=7, key_len=9)
    together = attention(q, k, v, mask(slice(0, 3)), **options)[0]
    for b in range(3):
        one = slice(b, b + 1)
        alone = attention(q[one], k[one], v[one], mask(one), **options)[0]
        assert_near(f"sequence {b} alone", together[one], alone, 1e-13)
