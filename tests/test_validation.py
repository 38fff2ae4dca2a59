"""Bad input: each error names the argument, what came and what was expected, with the likely fix."""

from __future__ import annotations

import re

import pytest
import torch

import regard
from regard import masks


def t(*sizes: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(sizes, dtype=dtype, device=device)


Q, K, V = t(2, 4, 3, 8), t(2, 2, 5, 8), t(2, 2, 5, 6)

# The arguments that differ from a good call, the error, and its whole wording.
CALLS: dict[str, tuple[dict, type, str]] = {
    "a list": ({"query": [1.0]}, TypeError, "query must be a torch.Tensor, got list"),
    "integer query": (
        {"query": t(2, 4, 3, 8, dtype=torch.long)},
        TypeError,
        "query must be float16, bfloat16, float32 or float64, got int64; convert it with query.float()",
    ),
    "complex value": (
        {"value": t(2, 2, 5, 6, dtype=torch.complex64)},
        TypeError,
        "value must be float16, bfloat16, float32 or float64, got complex64",
    ),
    "one axis": ({"key": t(8)}, ValueError, "key must have at least 2 axes (L, D), got shape (8,)"),
    "mixed dtypes": (
        {"key": K.double()},
        TypeError,
        "query, key and value must have one dtype, got query float32, key float64, value float32; "
        "convert with .to(query.dtype)",
    ),
    "mixed devices": (
        {"value": t(2, 2, 5, 6, device="meta")},
        ValueError,
        "query, key and value must be on one device, got query on cpu, key on cpu, value on meta; "
        "move with .to(query.device)",
    ),
    "axes that differ": (
        {"query": t(3, 8)},
        ValueError,
        "query, key and value must have the same number of axes, got query (3, 8), key (2, 2, 5, 8)",
    ),
    "widths that differ": (
        {"key": t(2, 2, 5, 7)},
        ValueError,
        "query and key must have the same width D (last axis), got query 8 and key 7",
    ),
    "no width": (
        {"query": t(2, 4, 3, 0), "key": t(2, 2, 5, 0)},
        ValueError,
        "query must have a width D (last axis) of at least 1, got shape (2, 4, 3, 0)",
    ),
    "lengths that differ": (
        {"value": t(2, 2, 6, 6)},
        ValueError,
        "key and value must have the same length S (axis -2), got key 5 and value 6",
    ),
    "heads of key and value": (
        {"value": t(2, 4, 5, 6)},
        ValueError,
        "key and value must agree in every axis but the last, got key (2, 2, 5, 8) and value (2, 4, 5, 6)",
    ),
    "batches that differ": (
        {"query": t(3, 4, 3, 8)},
        ValueError,
        "query and key must have the same batch axes (all before heads, length and width), got "
        "query (3, 4, 3, 8) and key (2, 2, 5, 8); expand the smaller one",
    ),
    "H no multiple of Hkv": (
        {"query": t(2, 3, 3, 8)},
        ValueError,
        "query heads H (axis -3) must be a multiple of key/value heads Hkv, got H=3 and Hkv=2",
    ),
    "batch of three axes": (
        {"query": t(4, 3, 8), "key": t(2, 5, 8), "value": t(2, 5, 6)},
        ValueError,
        "query and key must have the same batch size N in (N, L, D), got 4 and 2; for grouped "
        "heads without a batch add one: query[None], key[None], value[None]",
    ),
    "float mask": (
        {"mask": t(3, 5)},
        TypeError,
        "mask must be boolean (True = may attend), got float32; pass a tensor to be added to the scores as bias=",
    ),
    "integer mask": (
        {"mask": t(3, 5, dtype=torch.uint8)},
        TypeError,
        "mask must be boolean (True = may attend), got uint8; convert it with mask.bool()",
    ),
    "a mask that is none": (
        {"mask": "causal"},
        TypeError,
        "mask must be a regard Mask or a boolean tensor (True = may attend), got str",
    ),
    "a mask that does not broadcast": (
        {"mask": t(3, 4, dtype=torch.bool)},
        ValueError,
        "mask (True = may attend) must broadcast to (..., H, L, S) = (2, 4, 3, 5), got (3, 4)",
    ),
    "a mask of too many axes": (
        {"mask": t(1, 2, 4, 3, 5, dtype=torch.bool)},
        ValueError,
        "must broadcast to (..., H, L, S) = (2, 4, 3, 5), got (1, 2, 4, 3, 5)",
    ),
    "a mask elsewhere": (
        {"mask": t(3, 5, dtype=torch.bool, device="meta")},
        ValueError,
        "mask must be on query's device cpu, got meta; move it with .to(query.device)",
    ),
    "a bias that does not broadcast": (
        {"bias": t(2, 3, 5)},
        ValueError,
        "bias (added to the scores) must broadcast to (..., H, L, S) = (2, 4, 3, 5), got (2, 3, 5)",
    ),
    "boolean bias": (
        {"bias": t(3, 5, dtype=torch.bool)},
        TypeError,
        "bias must be a float tensor added to the scores, got bool; pass a boolean tensor as mask=",
    ),
    "bias of another dtype": (
        {"bias": t(3, 5, dtype=torch.float64)},
        TypeError,
        "bias must be float32 like query, or float32, got float64",
    ),
    "a number as bias": ({"bias": 1.0}, TypeError, "bias must be a torch.Tensor, got float"),
    "a number as sinks": ({"sinks": 1.0}, TypeError, "sinks must be a tensor of one logit a head, got float"),
    "sinks of another shape": (
        {"sinks": t(2)},
        ValueError,
        "sinks must have shape (H,) = (4,), one logit a query head, got (2,)",
    ),
    "integer sinks": (
        {"sinks": t(4, dtype=torch.long)},
        TypeError,
        "sinks must be float32 like query, or float32, got int64",
    ),
    "sinks elsewhere": ({"sinks": t(4, device="meta")}, ValueError, "sinks must be on query's device cpu, got meta"),
    "scale of text": ({"scale": "1"}, TypeError, "scale must be a number or None, got str"),
    "infinite scale": ({"scale": float("inf")}, ValueError, "scale must be a finite number, got inf"),
    "softcap of 0": ({"softcap": 0.0}, ValueError, "softcap must be a positive finite number, got 0.0"),
    "negative softcap": ({"softcap": -1}, ValueError, "softcap must be a positive finite number, got -1"),
    "dropout above 1": (
        {"dropout": 1.5},
        ValueError,
        "dropout must be in [0, 1], got 1.5; it is the probability of dropping a weight",
    ),
    "negative dropout": ({"dropout": -0.1}, ValueError, "dropout must be in [0, 1], got -0.1"),
    "dropout that is not a number": ({"dropout": float("nan")}, ValueError, "dropout must be in [0, 1], got nan"),
    "dropout of text": ({"dropout": "0.1"}, TypeError, "dropout must be a number in [0, 1], got str"),
    "unknown impl": ({"impl": "flash"}, ValueError, "impl must be one of 'auto', 'fused', 'reference', got 'flash'"),
    "lengths of another batch": (
        {"mask": masks.padding(torch.tensor([1, 2, 3]))},
        ValueError,
        "padding(lengths): one length a sequence, expected (2,), got (3,)",
    ),
    "a length past the keys": (
        {"mask": masks.padding(torch.tensor([5, 6]))},
        ValueError,
        "padding(lengths): a length of 6 exceeds the key length S=5",
    ),
    "valid of another length": (
        {"mask": masks.padding(torch.ones(2, 4).bool())},
        ValueError,
        "padding(valid): expected shape (B, S) = (2, 5) or (S,), got (2, 4)",
    ),
    "documents of another length": (
        {"mask": masks.documents(torch.zeros(4).long())},
        ValueError,
        "documents(ids): expected shape (B, S) = (2, 5) or (S,), got (4,)",
    ),
    "lengths elsewhere": (
        {"mask": masks.padding(t(2, dtype=torch.bool, device="meta"))},
        ValueError,
        "padding(valid) must be on query's device cpu, got meta",
    ),
    "a rule of integers": (
        {"mask": masks.where(lambda b, h, q, kv: q - kv)},
        TypeError,
        "masks.where(rule): rule(b, h, q, kv) must return a boolean tensor, got int64",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_attention(name):
    given, error, message = CALLS[name]
    with pytest.raises(
        error, match="^" + re.escape(message) if "must broadcast" not in message else re.escape(message)
    ):
        regard.attention(**({"query": Q, "key": K, "value": V} | given))


def test_a_good_call_passes():
    regard.attention(Q, K, V, t(4, 3, 5, dtype=torch.bool), bias=t(3, 1), sinks=t(4), scale=1, softcap=2, dropout=1)
