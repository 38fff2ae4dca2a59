"""What is given to latent attention: positions with parameters, wrapped projections, hooks, caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard import LatentAttention, masks
from regard.positions import Positions

SIZES: dict[str, int] = {"kv_rank": 6, "nope_dim": 4, "rotary_dim": 2, "v_dim": 4}


class Trained(Positions):
    """Positions with a number that was learned elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(3.0))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.number)


class Wide(Positions):
    """A rotation that does not keep the dtype."""

    def rotate(self, q: Tensor, k: Tensor, **where: Any) -> tuple[Tensor, Tensor]:
        return q.double(), k


class Wrapped(nn.Module):
    """A projection that somebody has wrapped."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out


def test_positions_that_were_given_keep_their_parameters() -> None:
    positions = Trained()
    layer = LatentAttention(16, 4, **SIZES, positions=positions)
    assert positions.number.item() == 3
    layer.reset_parameters()
    assert positions.number.item() == 0


@pytest.mark.parametrize("name", ["kv_up", "out_proj", "q_proj"])
def test_reset_refuses_a_part_that_somebody_has_wrapped(name: str) -> None:
    layer = LatentAttention(16, 4, **SIZES)
    setattr(layer, name, Wrapped(getattr(layer, name)))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=rf"reset_parameters\(\): {name} is a Wrapped"):
        layer.reset_parameters()
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_a_cache_of_a_layer_whose_projection_is_wrapped() -> None:
    layer, x = LatentAttention(16, 4, **SIZES, mask=masks.causal()), torch.rand(2, 5, 16)
    layer.out_proj = Wrapped(layer.out_proj)  # type: ignore[assignment]
    cache = layer.latent_cache(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, cache=cache), layer(x))


def test_a_cache_that_is_made_under_autocast_takes_what_autocast_makes() -> None:
    layer, x = LatentAttention(16, 4, **SIZES), torch.rand(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = layer.latent_cache(2, 9)
        assert layer(x, cache=cache).dtype == torch.bfloat16


def test_a_hook_of_all_modules_sees_kv_up_at_every_step() -> None:
    layer, x, seen = LatentAttention(16, 4, **SIZES), torch.rand(1, 5, 16), []
    cache = layer.latent_cache(1, 9)
    with torch.no_grad():
        layer(x, cache=cache)
        handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
        try:
            layer(x[:, :1], cache=cache)
        finally:
            handle.remove()
    assert any(module is layer.kv_up for module in seen)


def test_a_rotation_keeps_the_dtype_or_leaves_the_cache() -> None:
    layer, x = LatentAttention(16, 4, **SIZES, positions=Wide()), torch.rand(2, 5, 16)
    cache = layer.latent_cache(2, 9)
    with torch.no_grad(), pytest.raises(ValueError, match=r"positions=Wide\(\): rotate\(\) must keep .* of q,"):
        layer(x, cache=cache)
    assert cache.lengths.tolist() == [0, 0]


def test_a_mask_that_fails_at_a_later_entry_leaves_the_cache() -> None:
    layer, texts = LatentAttention(16, 4, **SIZES), torch.tensor([0, 0, 1, 1])
    cache = layer.latent_cache(1, 8)
    with torch.no_grad(), pytest.raises(IndexError):
        layer(torch.rand(1, 6, 16), cache=cache, mask=masks.where(lambda b, h, q, kv: texts[q] == texts[kv]))
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize("wrong", ["kv_up", "out_proj"])
def test_what_comes_after_the_cache_is_asked_before_it(wrong: str) -> None:
    layer, x = LatentAttention(16, 4, **SIZES), torch.rand(2, 5, 16)
    cache = layer.latent_cache(2, 9)
    getattr(layer, wrong).double()
    with torch.no_grad(), pytest.raises(TypeError, match=rf"layer.{wrong} must have x's dtype float32, got float64"):
        layer(x, cache=cache)
    assert cache.lengths.tolist() == [0, 0]


def test_the_causal_part_of_an_own_mask_is_said_by_the_cache() -> None:
    layer, x = LatentAttention(16, 4, **SIZES, mask=masks.causal() & masks.window(3)), torch.rand(2, 5, 16)
    cache = layer.latent_cache(2, 9)
    with torch.no_grad():
        parts = [layer(part, cache=cache) for part in x.split([3, 2], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), layer(x))
