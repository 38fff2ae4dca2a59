"""Latent attention as a module: its parameters, where it is made, how it is trained, compiled and cast."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from tests.compiling import NEAR, fresh  # noqa: F401
from tests.latent.formula import EXACT, small, text

from regard import LatentAttention, masks
from regard.positions import Positions, Rotary

SIZES = {"kv_rank": 8, "nope_dim": 4, "rotary_dim": 4, "v_dim": 4}


def test_names_and_loading():
    layer = small(bias=True)
    names = {name for name, _ in layer.named_parameters()}
    assert names == {
        "q_down.weight", "q_down.bias", "q_norm.weight", "q_up.weight", "kv_down.weight", "kv_down.bias",
        "kv_norm.weight", "kv_up.weight", "out_proj.weight", "out_proj.bias",
    }  # fmt: skip
    assert set(layer.state_dict()) == names
    other = LatentAttention(
        10, 3, q_rank=9, kv_rank=8, nope_dim=4, rotary_dim=6, v_dim=5, d_out=7, bias=True, dtype=torch.float64
    )
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(text(2, 5)), layer(text(2, 5)))
    assert torch.equal(copy.deepcopy(layer)(text(2, 5)), layer(text(2, 5)))


def test_new_parameters():
    layer = small(bias=True)
    layer.reset_parameters()
    for name, p in layer.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert torch.equal(p, torch.ones_like(p)), name
        elif name != "out_proj.weight":
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.5 * bound < p.abs().max() <= bound, name


def test_from_the_meta_device():
    with torch.device("meta"):
        layer = LatentAttention(10, 3, q_rank=6, **SIZES)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    assert real(torch.randn(2, 5, 10), mask=masks.causal()).isfinite().all()


def test_gradients():
    layer = LatentAttention(4, 2, q_rank=3, kv_rank=3, nope_dim=2, rotary_dim=2, v_dim=2, dtype=torch.float64)
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def out(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, named, (x,), {"mask": masks.causal()})

    assert torch.autograd.gradcheck(out, (x, *values))


@pytest.mark.usefixtures("fresh")
def test_compiled_whole():
    layer, x = LatentAttention(10, 3, q_rank=6, mask=masks.causal(), **SIZES), torch.randn(2, 10, 10)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), **NEAR)


@torch.no_grad()
def test_exported():
    layer, x = LatentAttention(10, 3, q_rank=6, mask=masks.causal(), **SIZES), torch.randn(2, 10, 10)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), **NEAR)


@torch.no_grad()
def test_autocast_and_a_cache_of_half_precision():
    layer, x = LatentAttention(64, 2, q_rank=6, mask=masks.causal(), **SIZES).eval(), torch.randn(1, 9, 64)
    exact = layer.double()(x.double()).float()
    layer.float()
    cache = layer.latent_cache(1, 9, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        whole = layer(x)
        parts = torch.cat([layer(part, cache=cache) for part in x.split([5, 1, 3], 1)], 1)
    assert whole.dtype == parts.dtype == torch.bfloat16
    # Six roundings to 8 bits one after the other, of numbers that add up to about one.
    for found in (whole, parts):
        torch.testing.assert_close(found.float(), exact, rtol=0, atol=6 * 2**-8 * exact.abs().max().item())


def test_checkpointing_gives_the_same_gradients():
    layer, x = small(mask=masks.causal()), text(2, 5).requires_grad_()
    (plain,) = torch.autograd.grad(layer(x).square().sum(), x)
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    (found,) = torch.autograd.grad(again.square().sum(), x)
    torch.testing.assert_close(found, plain, **EXACT)


def test_repr():
    plain = LatentAttention(10, 3, **SIZES)
    assert plain.extra_repr() == "d_in=10, num_heads=3, kv_rank=8, nope_dim=4, rotary_dim=4, v_dim=4, d_out=10"
    layer = LatentAttention(10, 3, q_rank=6, mask=masks.window(4), scale=0.25, dropout=0.1, **SIZES)
    assert "q_rank=6" in layer.extra_repr()
    assert layer.extra_repr().endswith("mask=window(4), scale=0.25, dropout=0.1")


class Added(Positions):
    def bias(self, query_len, key_len, *, num_heads, device, dtype):
        return torch.zeros(())


BAD = {
    "kv_rank must be at least 1, got 0": {"kv_rank": 0},
    "rotary_dim must be an integer, got float": {"rotary_dim": 4.0},
    'bias must be True, False or a collection of names, got str; for one projection pass bias={"q"}': {"bias": "q"},
    "bias: the projections are 'q', 'kv', 'out', got 'k'": {"bias": ["k"]},
    "mask of a layer must be a regard.masks.Mask or None, got Tensor": {"mask": torch.ones(2, 2, dtype=torch.bool)},
    "positions must be a regard.positions.Positions, got str": {"positions": "rotary"},
    "positions must turn queries and keys, got Added, which adds to the scores": {"positions": Added()},
    "scale must be a finite number, got inf": {"scale": float("inf")},
    "eps must be a positive finite number, got 0.0": {"eps": 0.0},
    "dropout": {"dropout": 2.0},
}


@pytest.mark.parametrize("message", BAD)
def test_what_it_cannot_be_made_of(message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        LatentAttention(10, 3, **{**SIZES, **BAD[message]})


def test_positions_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"8"):
        LatentAttention(10, 3, **SIZES, positions=Rotary(8))
