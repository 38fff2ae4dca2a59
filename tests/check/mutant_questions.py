"""Questions to mutants: each of them is wrong on one, and right on another."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from regard.check.contract import REGARD
from regard.check.request import Request

ALIGNED = replace(REGARD, causal="top-left", empty_row="uniform", grouped="tiled", window="own-excluded")


def make(batch=2, heads=3, kv_heads=None, query_len=5, key_len=None, width=8, value_width=None, size=1.0, **options):
    g = torch.Generator().manual_seed(query_len)
    kv_heads, key_len = kv_heads or heads, key_len or query_len

    def normal(number, length, of):
        return size * torch.randn(batch, number, length, of, generator=g, dtype=torch.float64)

    tensors = (normal(heads, query_len, width), normal(kv_heads, key_len, width))
    return Request(*tensors, normal(kv_heads, key_len, value_width or width), **options)


def random_mask(r, batch=True, heads=True):
    g = torch.Generator().manual_seed(1)
    shape = (r.query.shape[0] if batch else 1, r.query.shape[1] if heads else 1, r.query_len, r.key_len)
    mask = torch.rand(shape, generator=g) < 0.5
    mask[..., 0] = True
    return mask


def with_unread_nan(r):
    mask = torch.ones(1, 1, r.query_len, r.key_len, dtype=torch.bool)
    mask[..., -1] = False
    return r.but(mask=mask).moved(r.key_len - 1, times=math.nan)


def with_empty_row(r):
    mask = torch.ones(1, 1, r.query_len, r.key_len, dtype=torch.bool)
    mask[..., 1, :] = False
    return r.but(mask=mask)


def with_padding(r):
    mask = torch.ones(r.query.shape[0], 1, r.query_len, r.key_len, dtype=torch.bool)
    mask[0, ..., -2:] = False
    return r.but(mask=mask)


def with_bias(r):
    return r.but(bias=torch.randn(1, 1, r.query_len, r.key_len, generator=torch.Generator().manual_seed(2)).double())


def one_huge(r):
    query, key = r.query.clone(), r.key.clone()
    key[0, 0, 2] = 300 * query[0, 0, 0]
    return r.but(query=query, key=key)


QUESTIONS = {
    "plain": make(),
    "one number": make(batch=1, heads=1, query_len=1, width=1),
    "width 64": make(width=64),
    "large": make(size=40.0),
    "positive": make().map(lambda t: 20 + t.abs()),
    "one huge": one_huge(make()),
    "odd": make(width=7),
    "narrow values": make(value_width=5),
    "grouped": make(heads=4, kv_heads=2),
    "more keys": make(query_len=3, key_len=6),
    "long": make(batch=1, query_len=4, key_len=37),
    "scale": make(scale=0.7),
    "softcap": make(size=2.0, softcap=1.5),
    "bias": with_bias(make()),
    "softcap and bias": with_bias(make(size=2.0, softcap=1.5)),
    "mask": make().but(mask=random_mask(make())),
    "padding": with_padding(make(query_len=6)),
    "large mask": make(size=300.0).but(mask=random_mask(make())),
    "empty row": with_empty_row(make()),
    "unread": with_unread_nan(make()),
    "causal": make(causal=True),
    "causal, more keys": make(query_len=3, key_len=6, causal=True),
    "causal, mask": make(causal=True).but(mask=random_mask(make())),
    "causal, softcap": make(causal=True, softcap=3.0),
    "causal, bias": with_bias(make(causal=True)),
    "causal, weights": make(causal=True, weights=True),
    "causal, dropout": make(causal=True, dropout=0.5),
    "window": make(window=2, causal=True),
    "window, more keys": make(query_len=3, key_len=6, window=2, causal=True),
    "columns": make(strides="columns"),
    "many sequences": make(batch=6),
    "wide": make(width=150),
}
ATOL = 1e-6


def differs(got: Tensor, want: Tensor) -> bool:
    return not torch.allclose(
        got, want, rtol=ATOL, atol=ATOL * float(want.detach().abs().nan_to_num().max()), equal_nan=True
    )


def gradients(function, r):
    leaves = [t.clone().requires_grad_() for t in (r.query, r.key, r.value)]
    output = function(*leaves)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output)
    return torch.autograd.grad((output * weight).sum(), leaves, allow_unused=True, materialize_grads=True)


def call(attention, r, **options):
    return attention(
        r.query, r.key, r.value, r.mask, is_causal=r.causal, scale=r.scale, bias=r.bias, softcap=r.softcap,
        window=r.window, **options,
    )  # fmt: skip
