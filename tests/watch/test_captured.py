"""What the functions given to flex_attention read is what it was, or the weights are refused."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.watch.attending import by_definition, same
from torch.nn.attention.flex_attention import BlockMask, and_masks, flex_attention

import regard

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


INDEX = torch.arange(32)[:, None], torch.arange(48)


def qkv(dtype=torch.float64):
    return torch.randn(2, 4, 32, 16, dtype=dtype), *torch.randn(2, 2, 2, 48, 16, dtype=dtype)


class Relative(torch.nn.Module):
    """Reads a table of its own, a plain number of its own, and a module of its own."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(48, dtype=torch.float64))
        self.unread = torch.nn.Parameter(torch.zeros(1))
        self.window = 9

    def mask(self, b, h, q, kv):
        return (kv < q + self.window) & (self.table[kv] < 5)

    def forward(self, kv):
        return self.table[kv]


GLOBAL = {"tables": [torch.zeros(48, dtype=torch.float64)], "width": 7}
LIMIT = torch.tensor(40)


def by_globals(b, h, q, kv):
    return (GLOBAL["tables"][0][kv] < 5) & (kv < LIMIT) & (kv < q + GLOBAL["width"])


def from_table(table, b, h, q, kv):
    return table[kv] < 5


class Reader:
    """An object that is called."""

    def __init__(self, table):
        self.table = table

    def __call__(self, b, h, q, kv):
        return self.table[kv] < 5


def readers():
    """Functions, and what is done to what each reads."""
    module, table = Relative(), torch.zeros(48, dtype=torch.float64)
    n = 20

    def in_closure(b, h, q, kv):
        return kv < n

    def through_module(b, h, q, kv):
        return module(kv) < 5

    def through_attribute(b, h, q, kv):
        return module.table[kv] < 5

    def nested(b, h, q, kv):
        return in_closure(b, h, q, kv)

    def rebind():
        nonlocal n
        n = 30

    def write(t):
        with torch.no_grad():
            t.add_(1)

    return {
        "closure": (in_closure, rebind),
        "closure of a closure": (nested, rebind),
        "and_masks": (and_masks(in_closure, through_module), rebind),
        "module": (through_module, lambda: write(module.table)),
        "attribute": (through_attribute, lambda: write(module.table)),
        "attribute replaced": (through_attribute, lambda: setattr(module, "table", torch.nn.Parameter(table + 1))),
        "method": (module.mask, lambda: write(module.table)),
        "number of a method": (module.mask, lambda: setattr(module, "window", 3)),
        "partial": (functools.partial(from_table, table), lambda: write(table)),
        "object": (Reader(table), lambda: write(table)),
        "global tensor": (by_globals, lambda: write(LIMIT)),
        "tensor in a global": (by_globals, lambda: write(GLOBAL["tables"][0])),
        "number in a global": (by_globals, lambda: GLOBAL.update(width=5)),
    }


def one_block(mask_mod):
    count = torch.ones(1, 1, 1, dtype=torch.int32)
    sizes = {"BLOCK_SIZE": 128, "seq_lengths": (32, 48)}
    return BlockMask.from_kv_blocks(count, torch.zeros(1, 1, 1, 1, dtype=torch.int32), mask_mod=mask_mod, **sizes)


@pytest.mark.parametrize("name", list(readers()))
def test_whatever_a_rule_reads_is_watched(name, monkeypatch):
    monkeypatch.setitem(GLOBAL, "width", 7)
    monkeypatch.setitem(GLOBAL, "tables", [torch.zeros(48, dtype=torch.float64)])
    mask_mod, change = readers()[name]
    q, k, v = qkv()
    with regard.watch() as seen:
        flex_attention(q, k, v, block_mask=one_block(mask_mod), enable_gqa=True)
    weights = seen[0].weights
    assert weights.to_dense().isfinite().all()
    change()
    with pytest.raises(RuntimeError, match=r"was written to after the call|was changed.* after the call"):
        _ = seen[0].weights.to_dense()


def test_what_a_rule_does_not_read_may_change():
    module = Relative()
    q, k, v = qkv()
    block_mask = one_block(module.mask)
    with regard.watch() as seen:
        flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True)
    module.eval()
    with torch.no_grad():
        module.unread.add_(1)
    same(seen[0].weights, by_definition(q, k, INDEX[1] < INDEX[0] + 9))


def test_a_changed_number_is_named():
    q, k, v = qkv()
    slope = 0.5
    with regard.watch() as seen:
        flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s - slope * (i - j).abs(), enable_gqa=True)
    slope = 0.25
    with pytest.raises(RuntimeError, match=r"score_mod=<lambda>\): slope was changed \(from 0.5 to 0.25\)"):
        _ = seen[0].weights
