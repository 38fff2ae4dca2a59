"""Modules of every style: how they are called is found out; the right one is ok, the one without a scale is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import regard

WIDTH, HEADS = 24, 3


def core(q, k, v, allow=None, *, scaled=True):
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if scaled else 1)
    return (scores if allow is None else scores.masked_fill(~allow, -torch.inf)).softmax(-1) @ v


class Base(nn.Module):
    scaled = True

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d_model, d_model) for _ in range(4))

    def attend(self, q, k, v, mask=None):
        q, k, v = (
            p(t).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for p, t in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(core(q, k, v, mask, scaled=self.scaled).transpose(1, 2).flatten(2))


class OnX(Base):
    def forward(self, x, mask=None):
        return self.attend(x, x, x, mask)


class OnContext(Base):
    def forward(self, x, context=None):
        context = x if context is None else context
        return self.attend(x, context, context)


class OnThree(Base):
    def forward(self, query, key, value, attn_mask=None, key_padding_mask=None):
        mask = None if attn_mask is None else ~attn_mask
        if key_padding_mask is not None:
            kept = ~key_padding_mask[:, None, None, :]
            mask = kept if mask is None else mask & kept
        return self.attend(query, key, value, mask)


class AnotherOrder(Base):
    def forward(self, value, key, query, mask=None):
        return self.attend(query, key, value, mask)


class NumbersAsPadding(Base):
    def forward(self, hidden_states, padding_mask=None):
        if padding_mask is None:
            return (self.attend(hidden_states, hidden_states, hidden_states),)
        kept = (1 - padding_mask) == 0  # booleans do not subtract
        return (self.attend(hidden_states, hidden_states, hidden_states, kept[:, None, None, :]),)


class Unbatched(Base):
    def forward(self, x):
        assert x.dim() == 2
        return self.attend(x[None], x[None], x[None])[0]


class UnnamedHeads(Base):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.splits = self.num_heads
        del self.num_heads

    def forward(self, x):
        self.__dict__["num_heads"] = self.splits
        try:
            return self.attend(x, x, x)
        finally:
            del self.__dict__["num_heads"]


class NanoGPT(nn.Module):
    scaled = True

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attn_dropout = nn.Dropout(config.dropout)
        self.n_head, self.n_embd = config.n_head, config.n_embd
        self.register_buffer("bias", torch.ones(config.block_size, config.block_size).tril()[None, None])

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, self.n_head, -1).transpose(1, 2) for t in self.c_attn(x).split(width, dim=2))
        scores = q @ k.mT / (math.sqrt(k.shape[-1]) if self.scaled else 1)
        scores = scores.masked_fill(self.bias[:, :, :length, :length] == 0, -torch.inf)
        return self.c_proj((self.attn_dropout(F.softmax(scores, -1)) @ v).transpose(1, 2).reshape(batch, length, width))


class Head(nn.Module):
    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, head_width, bias=False) for _ in range(3))


class HeadByHead(nn.Module):
    scaled = True

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, d_model // num_heads) for _ in range(num_heads))
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        each = [core(h.query(x), h.key(x), h.value(x), scaled=self.scaled) for h in self.heads]
        return self.proj(torch.cat(each, -1))


class Fused(nn.Module):
    scaled = True
    order = (2, 0, 3, 1, 4)  # of (B, L, 3, H, D)

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), num_heads

    def forward(self, x):
        shape = (3, self.num_heads) if self.order[0] == 2 else (self.num_heads, 3)
        q, k, v = self.qkv(x).unflatten(-1, (*shape, -1)).permute(self.order)
        return self.proj(core(q, k, v, scaled=self.scaled).transpose(1, 2).flatten(2))


class FusedHeadByHead(Fused):
    order = (3, 0, 2, 1, 4)  # of (B, L, H, 3, D)


class Plain(nn.Module):
    scaled = True

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, query, key, value, mask=None):
        return self.dropout(core(query, key, value, mask, scaled=self.scaled))


FOUND: dict[type[nn.Module], dict[str, Any]] = {
    OnX: {"layout": "BLE", "mask": "allow", "heads": HEADS, "causal": None},
    OnContext: {"layout": "BLE", "mask": None},
    OnThree: {"layout": "BLE", "mask": "deny", "padding": "deny"},
    AnotherOrder: {"layout": "BLE", "mask": "allow"},
    NumbersAsPadding: {"layout": "BLE", "padding": "allow"},
    Unbatched: {"layout": "LE"},
    UnnamedHeads: {"layout": "BLE", "heads": HEADS},
    NanoGPT: {"layout": "BLE", "causal": "always", "dropout": "training", "heads": HEADS},
    HeadByHead: {"layout": "BLE", "heads": HEADS},
    Fused: {"layout": "BLE", "heads": HEADS},
    FusedHeadByHead: {"layout": "BLE", "heads": HEADS},
    Plain: {"layout": "BHLD", "mask": "allow"},
}


@pytest.mark.parametrize("kind", FOUND, ids=lambda kind: kind.__name__)
def test_a_right_module_is_ok_and_its_conventions_are_found(kind):
    report = regard.check(kind)
    assert report.ok, str(report)
    found = report.contract.declared()
    assert {name: found.get(name) for name in FOUND[kind]} == FOUND[kind]


@pytest.mark.parametrize("kind", FOUND, ids=lambda kind: kind.__name__)
def test_the_same_without_a_scale_is_not_ok(kind):
    wrong = type(kind.__name__, (kind,), {"scaled": False})
    report = regard.check(wrong, only=["matches_definition"])
    assert [result.name for result in report.failures] == ["matches_definition"], str(report)


def test_an_instance_with_dropout_in_training_mode_is_not_held_against_it():
    assert regard.check(Plain(0.5)).ok


@pytest.mark.parametrize("subject", [nn.MultiheadAttention, nn.MultiheadAttention(24, 3, batch_first=True)])
def test_torchs_own(subject):
    report = regard.check(subject)
    assert report.ok, str(report)
    assert (report.contract.layout, report.contract.mask, report.contract.padding) == ("BLE", "deny", "deny")


def test_torchs_own_with_the_length_first():
    report = regard.check(nn.MultiheadAttention(24, 3))
    assert report.ok, str(report)
    assert report.contract.layout == "LBE"


class Scaled(OnX):
    """A parameter between the projections: the attention is not that of the definition."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.gamma = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        q, k, v = (
            p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(core(self.gamma * q, k, v, None).transpose(1, 2).flatten(2))


class ScaledAfter(OnX):
    """The same parameter behind the output projection: what is between the projections can be compared."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.gamma = nn.Parameter(torch.full((d_model,), 1.5))

    def forward(self, x):
        return x + self.attend(x, x, x) * self.gamma


def test_numbers_that_cannot_be_compared_are_skipped_and_not_ok():
    report = regard.check(Scaled)
    assert not report.failures
    assert not report.ok
    said = "its numbers cannot be compared with the definition: it has parts whose share in the result is not known"
    assert report.untested.startswith(f"matches_definition was skipped: {said}: gamma")
    assert "NOT ENOUGH TESTED" in str(report)


def test_what_stands_behind_the_output_projection_plays_no_part():
    report = regard.check(ScaledAfter)
    assert report.ok, str(report)
    assert "matches_definition" in {result.name for result in report.having("passed")}
    skipped = {result.name: result.message for result in report.having("skipped")}
    assert skipped["gradients_match"] == "its gradients pass through more than its projections"
    # What was compared instead is told.
    assert "its numbers are compared between its projections: there is more around them" in report.warnings
    assert "parts whose share is not known change nothing between the projections: gamma" in report.warnings


class NeedsMore(OnX):
    def __init__(self, d_model: int, num_heads: int, temperature: float) -> None:
        super().__init__(d_model, num_heads)


class Refuses(OnX):
    def __init__(self, d_model: int, num_heads: int) -> None:
        raise RuntimeError("not today")


class NeedsFrequencies(Base):
    def forward(self, x, freqs_cis):
        return self.attend(x, x, x)


class TakesAnything(Base):
    def forward(self, *given):
        return self.attend(*given)


REFUSED = {
    NeedsMore: "NeedsMore(temperature=): no value for it is known; pass an instance: regard.check(NeedsMore(...))",
    Refuses: "Refuses(d_model=24, num_heads=3) raises RuntimeError: not today; pass an instance: "
    "regard.check(Refuses(...))",
    NeedsFrequencies: "NeedsFrequencies.forward(freqs_cis=): what it is for is not known; give it a default, or wrap "
    "the module in one whose forward takes x and a mask",
    TakesAnything: "TakesAnything.forward(*given): no argument reads as x or as query, key and value",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_made_or_called_says_what_would_help(kind):
    report = regard.check(kind)
    assert [(result.name, result.message) for result in report.failures] == [("can_be_called", REFUSED[kind])]


def test_a_method_of_a_module_is_called_on_a_copy_or_the_module_is_asked_for():
    assert regard.check(Plain().eval().forward).ok
    message = regard.check(OnX(24, 3).forward).failures[0].message
    assert message.endswith("it is a method of a module: check the module itself")


def test_a_number_of_heads_that_cannot_be_found_is_said():
    report = regard.check(type("UnnamedHeads", (UnnamedHeads,), {"scaled": False}))
    assert not report.ok
    assert "its number of heads was not found, and is taken to be 1: declare Contract(heads=)" in report.warnings
