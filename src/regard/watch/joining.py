"""The steps of a generation as one map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from regard import AttentionWeights, attention_weights, masks
from regard.masks import Mask
from regard.watch.kept import Kept, Posed
from regard.watch.record import Record

__all__ = ["join"]


def join(name: str, records: Sequence[Record]) -> AttentionWeights:
    """The queries of all records, over the keys of the last."""
    if len(records) == 1:
        return records[0].weights
    steps = [record.kept for record in records]
    _check(name, steps)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not steps[0].detached):
        posed = [step.posed() for step in steps]
        key = posed[-1].key
        query = torch.cat([p.query for p in posed], dim=-2)  # (..., H, L, D)
        mask = _structured(posed)
        if mask is None:
            mask = _dense(posed)
        first = posed[0]
        return attention_weights(
            query, key, mask, bias=_bias(posed), scale=first.scale, softcap=first.softcap, sinks=first.sinks
        )


def _check(name: str, steps: Sequence[Kept]) -> None:
    for number, (before, step) in enumerate(pairwise(steps), 1):
        if step.keys is not before.keys:
            raise ValueError(
                f"joined({name!r}): the keys of call {number}, {_size(step)}, do not extend those of call "
                f"{number - 1}, {_size(before)}, bit by bit: one text after another, a beam search that reorders its "
                "cache, a cache that rolls or is written in place, or watch(detach=False); seen.calls() has each for "
                "itself"
            )
        # Another forward over the same text reads the same keys too, but its queries are not those that come next.
        if step.shape[-1] - step.shape[-2] < before.shape[-1] < step.shape[-1]:
            raise ValueError(
                f"joined({name!r}): the {step.shape[-2]} queries of call {number} are over {step.shape[-1]} keys, of "
                f"which call {number - 1} had {before.shape[-1]}: they do not continue it; is it another forward over "
                "the same text? seen.calls() has each for itself"
            )
        for what in ("scale", "softcap"):
            if getattr(step.call, what) != getattr(before.call, what):
                raise ValueError(
                    f"joined({name!r}): {what} changes from {getattr(before.call, what)} in call {number - 1} to "
                    f"{getattr(step.call, what)}; seen.calls() has each for itself"
                )


def _size(step: Kept) -> str:
    return " x ".join(map(str, step.shape))


def _structured(posed: Sequence[Posed]) -> Mask | None:
    """causal() where every step continues the step before and sees all that is not after it."""
    seen = posed[0].key_len - posed[0].query_len
    for p in posed:
        if p.bias is not None or p.key_len - p.query_len != seen:
            return None
        plain = p.mask is None and p.query_len == 1
        named = repr(p.mask)
        if not (plain or named == "causal()" or (named == "causal(offset=0)" and p.query_len == p.key_len)):
            return None
        seen = p.key_len
    return masks.causal()


def _dense(posed: Sequence[Posed]) -> Mask | None:
    """The masks of all steps, one below the other; what was not there yet may not be read."""
    key_len = posed[-1].key_len
    if all(p.mask is None and p.key_len == key_len for p in posed):
        return None
    return masks.dense(_stacked([_rows(p) for p in posed], key_len))


def _rows(p: Posed) -> Tensor:
    """The mask of a step, (L, S), or (B or 1, H or 1, L, S) with the batch axes that query has."""
    if p.mask is None:
        return torch.ones(p.query_len, p.key_len, dtype=torch.bool, device=p.query.device)
    shape = p.query.shape
    headless = len(shape) < 4
    batch = int(torch.Size(shape[:-2] if headless else shape[:-3]).numel())
    heads = 1 if headless else shape[-3]
    full = p.mask.to_dense(p.query_len, p.key_len, batch=batch, num_heads=heads, device=p.query.device)
    if full.dim() == 2:
        return full
    if headless:
        return full[:, 0]  # (N, 1, L, S) -> (N, L, S)
    return full.unflatten(0, shape[:-3]) if full.shape[0] == batch and len(shape) > 4 else full


def _bias(posed: Sequence[Posed]) -> Tensor | None:
    """The biases of all steps, one below the other."""
    if all(p.bias is None for p in posed):
        return None
    rows = []
    for p in posed:
        bias = p.query.new_zeros(1, 1) if p.bias is None else p.bias
        bias = bias if isinstance(bias, Tensor) else bias.to_dense(p.query_len, p.key_len)
        rows.append(bias.expand(*bias.shape[:-2], p.query_len, p.key_len))
    dtype = torch.promote_types(rows[0].dtype, rows[-1].dtype)
    return _stacked([bias.to(dtype) for bias in rows], posed[-1].key_len)


def _stacked(rows: Sequence[Tensor], key_len: int) -> Tensor:
    """(..., L, S) of several lengths, S filled up with zeros, along L."""
    padded = [torch.nn.functional.pad(t, (0, key_len - t.shape[-1])) for t in rows]
    lead = torch.broadcast_shapes(*(t.shape[:-2] for t in padded))
    return torch.cat([t.expand(*lead, *t.shape[-2:]) for t in padded], dim=-2)
