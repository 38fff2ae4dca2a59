"""A step of decoding goes a shorter way than other calls, to the same numbers, and only where nothing else is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import regard
from regard import MultiHeadAttention, QKNorm, layer_step, masks
from regard.positions import DynamicNTK, NoPositions, Rotary

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "heads of their own": {"num_kv_heads": 4},
    "one key head": {"num_kv_heads": 1},
    "rotary": {"positions": Rotary(8)},
    "rotary, part of a head": {"positions": Rotary(8, rotary_dim=4)},
    "rotary, interleaved": {"positions": Rotary(8, pairing="interleaved")},
    "rotary, dynamic": {"positions": Rotary(8, scaling=DynamicNTK(2.0, 3))},
    "rotary, norm, no bias": {"positions": Rotary(8), "norm": QKNorm.rms(8), "bias": False},
    "scale, causal": {"scale": 0.5, "mask": masks.causal(), "positions": NoPositions()},
    "wide": {"d_k": 32, "d_out": 5},
}
OTHERS: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 3.0},
    "sinks": {"sinks": True},
    "gate": {"gate": "headwise"},
    "window": {"mask": masks.window(3)},
    "other widths": {"d_v": 16},
    "norm after": {"norm": QKNorm.rms(8, when="after"), "positions": Rotary(8)},
}


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call that came to the step took it."""
    taken: list[bool] = []
    right = layer_step.step

    def spy(*given: Any) -> Tensor | None:
        out = right(*given)
        taken.append(out is not None)
        return out

    monkeypatch.setattr(layer_step, "step", spy)
    return taken


def make(**options: Any) -> MultiHeadAttention:
    layer = MultiHeadAttention(32, 4, **({"num_kv_heads": 2} | options)).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


CACHES: dict[str, Callable[[MultiHeadAttention], Any]] = {
    "everything": lambda layer: layer.kv_cache(3, 12),
    "a window": lambda layer: layer.rolling_cache(3, 4),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_steps_have_the_numbers_of_the_usual_way(name: str, kind: str, stepped: list[bool], monkeypatch):
    layer = make(**(LAYERS | OTHERS)[name])
    x = torch.randn(3, 12, 32)
    found = []
    for usual in (False, True):
        if usual:
            monkeypatch.setattr(layer_step, "step", lambda *_: None)
        cache = CACHES[kind](layer)
        found.append(torch.cat([layer(part, cache=cache) for part in x.split([3] + [1] * 9, dim=1)], 1))
        assert cache.lengths.tolist() == [12] * 3
    assert stepped == [False] + [name in LAYERS] * 9
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)  # other kernels for a row alone


class Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += func is regard.attention
        return func(*args, **(kwargs or {}))


def test_whatever_else_is_asked_goes_the_usual_way(stepped: list[bool]):
    layer, x = make(positions=Rotary(8)), torch.randn(3, 1, 32)
    with torch.no_grad():
        cache = layer.kv_cache(3, 12)
        assert layer(x, cache=cache, need_weights=True)[1].shape == (3, 4, 1, 1)
        layer(x, cache=cache, mask=masks.window(1))
        layer(x, cache=cache, lengths=[1, 1, 0])
        layer(x, cache=cache)  # texts of several lengths
        with Watch() as watch:
            layer(x, cache=layer.kv_cache(3, 12))
        assert watch.seen == 1
        with torch.autocast("cpu", torch.bfloat16):
            layer(x, cache=layer.kv_cache(3, 12, dtype=torch.bfloat16))
    frozen = make().requires_grad_(False)
    frozen(x, cache=frozen.kv_cache(3, 12))  # gradients are on
    assert not any(stepped)


@torch.no_grad()
def test_hooks_and_wrappers_of_the_projections_are_heard(stepped: list[bool]):
    layer, x, heard = make(), torch.randn(3, 1, 32), []
    layer.in_proj.register_forward_hook(lambda *_: heard.append("in"))
    layer.out_proj.register_forward_hook(lambda *_: heard.append("out"))
    layer(x, cache=layer.kv_cache(3, 12))
    assert heard == ["in", "out"]
    assert stepped == [True]
    layer.in_proj = torch.nn.Sequential(torch.nn.Linear(32, 64))
    layer(x, cache=layer.kv_cache(3, 12))
    assert stepped == [True, False]


@torch.no_grad()
def test_what_is_refused_leaves_the_cache_as_it_was():
    layer = make(positions=Rotary(8))
    cache = layer.kv_cache(3, 2)
    for _ in range(2):
        layer(torch.randn(3, 1, 32), cache=cache)
    keys = cache._keys.clone()
    with pytest.raises(ValueError, match="max_len"):
        layer(torch.randn(3, 1, 32), cache=cache)
    for bad, error in ((torch.randn(3, 1, 31), ValueError), (torch.randn(2, 1, 32), ValueError)):
        with pytest.raises(error):
            layer(bad, cache=layer.kv_cache(3, 2))
    other = make(num_kv_heads=4)
    with pytest.raises(ValueError, match=r"heads|Hkv"):
        other(torch.randn(3, 1, 32), cache=cache)
    layer.in_proj = torch.nn.Linear(32, 60)
    with pytest.raises(ValueError, match="in_proj must give the 64 columns"):
        layer(torch.randn(3, 1, 32), cache=layer.kv_cache(3, 2))
    assert cache.lengths.tolist() == [2, 2, 2]
    assert torch.equal(cache._keys, keys)


def test_a_rotation_that_somebody_has_replaced_goes_the_usual_way(stepped: list[bool]):
    layer, x = make(positions=Rotary(8)), torch.randn(3, 1, 32)
    plain = make()
    plain.load_state_dict(layer.state_dict())
    layer.positions.rotate = lambda q, k, **where: (q, k)
    with torch.no_grad():
        found, wanted = [], []
        cache, other = layer.kv_cache(3, 12), plain.kv_cache(3, 12)
        for _ in range(3):
            found.append(layer(x, cache=cache))
            wanted.append(plain(x, cache=other))
    assert stepped == [False, True] * 3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)  # other kernels for a row alone
