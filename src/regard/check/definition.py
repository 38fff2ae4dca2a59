"""The definition under a subject's conventions: regard's float64 reference, and what alignment makes of a question."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from regard import reference
from regard.check.contract import Contract
from regard.check.request import Request

__all__ = ["Core", "allowed_by", "causal_mask", "define", "grouped", "scale_of", "window_mask"]

Core = Callable[[Request, Contract], Tensor]
"""An attention on queries, keys and values of single heads: (B, H, L, D) to (B, H, L, Dv), under a contract."""


def causal_mask(query_len: int, key_len: int, alignment: str | None, *, device: torch.device | None = None) -> Tensor:
    """(L, S), True = may attend.

    >>> causal_mask(2, 3, "bottom-right").int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    offset = 0 if alignment == "top-left" else key_len - query_len
    return torch.ones(query_len, key_len, dtype=torch.bool, device=device).tril(offset)


def window_mask(n: int, query_len: int, key_len: int, convention: str | None) -> Tensor:
    """(L, S): the n latest keys of each query, its own among them, or n before its own."""
    at = torch.arange(query_len)[:, None] + key_len - query_len  # (L, 1)
    keys = torch.arange(key_len)  # (S,)
    n = n + 1 if convention == "own-excluded" else n
    return (keys <= at) & (keys > at - n)


def allowed_by(r: Request, contract: Contract) -> Tensor | None:
    """Who may read whom, (B, H, L, S), from mask, padding, causal and window; None where everybody reads everything."""
    allowed = r.allowed(r.query.shape[1])
    always = contract.causal == "always"
    replaced = contract.combined == "mask-only" and r.mask is not None
    if (r.causal or always) and not replaced:
        lower = causal_mask(r.query_len, r.key_len, contract.causal, device=r.query.device)
        allowed = lower if allowed is None else allowed & lower
    if r.window is not None:
        near = window_mask(r.window, r.query_len, r.key_len, contract.window).to(r.query.device)
        allowed = near if allowed is None else allowed & near
    return allowed


def grouped(t: Tensor, heads: int, contract: Contract) -> Tensor:
    """Keys or values for every query head: (B, Hkv, S, D) -> (B, H, S, D)."""
    group = heads // t.shape[1]
    if group == 1:
        return t
    return t.repeat(1, group, 1, 1) if contract.grouped == "tiled" else t.repeat_interleave(group, 1)


def scale_of(r: Request) -> float:
    """The scale asked for, 1 / sqrt(D) if none was."""
    return 1 / math.sqrt(r.query.shape[-1]) if r.scale is None else r.scale


def define(r: Request, contract: Contract) -> Tensor:
    """The definition: what a correct attention with these conventions answers."""
    heads = r.query.shape[1]
    k, v = grouped(r.key, heads, contract), grouped(r.value, heads, contract)
    allowed = allowed_by(r, contract)
    output = reference.attention(r.query, k, v, allowed, bias=r.bias, scale=r.scale, softcap=r.softcap).output
    if allowed is not None and contract.empty_row == "uniform":
        empty = ~allowed.expand(*output.shape[:-1], k.shape[-2]).any(-1, keepdim=True)  # (B, H, L, 1)
        output = torch.where(empty, v.mean(-2, keepdim=True), output)
    return output
