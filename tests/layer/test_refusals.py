"""What a layer must refuse by name, since its answer would be wrong; a call that is refused leaves the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard import MultiHeadAttention, QKNorm, masks
from regard.positions import ALiBi, NoPositions, Positions, Rotary
from regard.qk_norm import HeadwiseLayerNorm


class Changed(Positions):
    """A rotation that gives back something else than it was given."""

    def __init__(self, q: Any, k: Any) -> None:
        super().__init__()
        self.of_q, self.of_k = q, k

    def rotate(self, q: Tensor, k: Tensor, **where: Any) -> tuple[Tensor, Tensor]:
        return self.of_q(q), self.of_k(k)


class Lora(nn.Module):
    """A projection that somebody has wrapped."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.low = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.low(x)
        return out


@pytest.mark.parametrize("kind", ["kv", "rolling", "masked"])
def test_a_norm_that_is_trained_alone_has_no_gradient_through_a_cache(kind: str) -> None:
    layer, x = MultiHeadAttention(16, 4, norm=QKNorm.rms(4)), torch.rand(2, 5, 16)
    layer.in_proj.requires_grad_(False)
    cache = layer.rolling_cache(2, 2) if kind == "rolling" else layer.kv_cache(2, 9)
    with pytest.raises(ValueError, match="key requires grad, and no gradient passes through a cache"):
        layer(x, cache=cache, mask=masks.window(3) if kind == "masked" else None)
    assert cache.lengths.tolist() == [0, 0]
    with torch.no_grad():
        layer(x, cache=cache)
    assert cache.lengths.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("q", "k", "name"),
    [
        (lambda q: q, lambda k: k[:, :1], "k"),
        (lambda q: q, lambda k: k.double(), "k"),
        (lambda q: q.double(), lambda k: k.double(), "q"),
        (lambda q: q.double(), lambda k: k, "q"),
        (lambda q: q[..., :2], lambda k: k, "q"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_a_rotation_keeps_shape_and_dtype(q: Any, k: Any, name: str, cached: bool) -> None:
    layer, x = MultiHeadAttention(16, 4, positions=Changed(q, k)), torch.rand(2, 5, 16)
    cache = layer.kv_cache(2, 9) if cached else None
    with torch.no_grad(), pytest.raises(ValueError, match=rf"positions=Changed.*: rotate\(\) must keep .* of {name},"):
        layer(x, cache=cache)
    assert cache is None or cache.lengths.tolist() == [0, 0]


def test_a_norm_of_heads_and_columns_is_one_of_each_head() -> None:
    over_tokens = nn.LayerNorm((4, 4))
    with pytest.raises(ValueError, match=r"norm: q must be made for the width 4 .*LayerNorm of shape \(4, 4\)"):
        MultiHeadAttention(16, 4, norm=QKNorm(over_tokens, over_tokens))
    each = HeadwiseLayerNorm(4, 4)
    MultiHeadAttention(16, 4, norm=QKNorm(each, each))
    with pytest.raises(
        ValueError, match=r"norm: q must be made for the width 16 .*HeadwiseLayerNorm of shape \(4, 4\)"
    ):
        MultiHeadAttention(16, 4, norm=QKNorm(each, each, over="all"))
    wide = HeadwiseLayerNorm(4, 16)
    with pytest.raises(ValueError, match=r"norm: q must be made for the width 16 .*of shape \(4, 16\)"):
        MultiHeadAttention(16, 4, norm=QKNorm(wide, wide, over="all"))


def test_slopes_that_were_given_are_there_again_after_meta() -> None:
    slopes = torch.tensor([0.3, 0.1, 0.03, 0.01])
    layer = MultiHeadAttention(16, 4, positions=ALiBi(slopes), mask=masks.causal(), device="meta")
    layer.to_empty(device="cpu")
    layer.positions.slopes.fill_(torch.nan)  # type: ignore[union-attr, operator]
    layer.reset_parameters()
    assert torch.equal(layer.positions.slopes, slopes)  # type: ignore[union-attr, arg-type]
    with torch.device("meta"):
        nothing = MultiHeadAttention(16, 4, positions=ALiBi(torch.ones(4)), mask=masks.causal())
    nothing.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"reset_parameters\(\): slopes .* 'meta'.* no numbers"):
        nothing.reset_parameters()
    trained = nn.Parameter(slopes.clone())
    positions = ALiBi(trained)
    with torch.no_grad():
        trained.zero_()
    positions.reset_parameters()
    assert torch.equal(trained.detach(), slopes)


def test_a_buffer_that_nobody_fills_is_refused() -> None:
    class Own(Positions):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3))

    layer = MultiHeadAttention(16, 4, positions=Own())
    with pytest.raises(ValueError, match=r"positions has a Own with buffers and without reset_parameters"):
        layer.reset_parameters()


@pytest.mark.parametrize("name", ["in_proj", "out_proj", "q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward", "parametrised"])
def test_to_torch_refuses_a_projection_that_somebody_has_changed(name: str, how: str) -> None:
    layer = MultiHeadAttention(16, 4, d_context=None if name == "in_proj" else 16)
    part = getattr(layer, name)
    if how == "hook":
        part.register_forward_hook(lambda module, inputs, out: 2 * out)
        wanted = f"has no hooks of {name}"
    elif how == "pre-hook":
        part.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
        wanted = f"has no hooks of {name}"
    elif how == "forward":
        part.forward = lambda x, part=None: x
        wanted = f"has no forward of its own of {name}"
    else:
        torch.nn.utils.parametrizations.orthogonal(part)
        wanted = f"has no parametrised {name}"
    with pytest.raises(ValueError, match=wanted):
        layer.to_torch()


def test_to_torch_leaves_out_positions_that_do_nothing() -> None:
    layer, x = MultiHeadAttention(16, 4, positions=NoPositions()), torch.rand(2, 5, 16)
    torch.testing.assert_close(layer.to_torch()(x, x, x, need_weights=False)[0], layer(x))
    with pytest.raises(ValueError, match="has no positions=Rotary"):
        MultiHeadAttention(16, 4, positions=Rotary(4)).to_torch()


@pytest.mark.parametrize("name", ["in_proj", "out_proj", "gate_proj", "k_proj"])
def test_reset_refuses_a_projection_that_somebody_has_wrapped(name: str) -> None:
    layer = MultiHeadAttention(16, 4, gate="headwise", d_context=16 if name == "k_proj" else None)
    setattr(layer, name, Lora(getattr(layer, name)))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=rf"reset_parameters\(\): {name} is a Lora"):
        layer.reset_parameters()
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_a_mask_that_fails_at_a_later_entry_leaves_the_cache() -> None:
    layer, texts = MultiHeadAttention(16, 4), torch.tensor([0, 0, 1, 1])
    cache = layer.kv_cache(1, 8)
    with torch.no_grad(), pytest.raises(IndexError):
        layer(torch.rand(1, 6, 16), cache=cache, mask=masks.where(lambda b, h, q, kv: texts[q] == texts[kv]))
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("wrong", ["gate_proj", "out_proj", "sinks"])
def test_what_comes_after_the_cache_is_asked_before_it(wrong: str, length: int) -> None:
    layer, x = MultiHeadAttention(16, 4, gate="headwise", sinks=True), torch.rand(2, 5, 16)
    if wrong == "out_proj":  # so that one token takes the short way
        layer = MultiHeadAttention(16, 4)
    cache = layer.kv_cache(2, 9)
    if wrong == "sinks":
        layer.sinks = nn.Parameter(torch.zeros(3))
    else:
        getattr(layer, wrong).double()
    with torch.no_grad(), pytest.raises((TypeError, ValueError), match=wrong):
        layer(x[:, :length], cache=cache)
    assert cache.lengths.tolist() == [0, 0]


def test_a_cache_that_is_made_under_autocast_takes_what_autocast_makes() -> None:
    layer, x = MultiHeadAttention(16, 4), torch.rand(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache, rolling = layer.kv_cache(2, 9), layer.rolling_cache(2, 3)
        wanted = layer(x, mask=masks.causal())
        assert layer(x, cache=cache).dtype == torch.bfloat16
        assert torch.equal(layer(x[:, :3], cache=rolling), wanted[:, :3])
    assert cache._keys.dtype == rolling._keys.dtype == torch.bfloat16
    assert layer.kv_cache(1, 1)._keys.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.kv_cache(1, 1, dtype=torch.float32)._keys.dtype == torch.float32
        assert MultiHeadAttention(16, 4, dtype=torch.float64).kv_cache(1, 1)._keys.dtype == torch.float64


def test_a_softcap_would_cap_the_lines_of_alibi() -> None:
    with pytest.raises(ValueError, match=r"positions=ALiBi.* softcap=3\.0"):
        MultiHeadAttention(16, 4, positions=ALiBi(4), softcap=3.0)


def test_alibi_of_a_layer_names_the_mask_that_it_needs() -> None:
    layer, x = MultiHeadAttention(16, 4, positions=ALiBi(4)), torch.rand(2, 5, 16)
    with pytest.raises(ValueError, match=r"positions=ALiBi: .* got mask=None; .*mask=regard.masks.causal\(\)$"):
        layer(x)
    layer(x, mask=masks.causal())


def test_a_layer_for_a_context_has_no_cache() -> None:
    layer, x = MultiHeadAttention(16, 4, d_context=8), torch.rand(2, 5, 16)
    for make in (lambda: layer.kv_cache(2, 9), lambda: layer.rolling_cache(2, 3)):
        with pytest.raises(ValueError, match=r"_cache\(\): the layer has d_context=\(8, 8\) .* layer.project_context"):
            make()
    for context in (None, torch.rand(2, 3, 8)):
        with pytest.raises(ValueError, match=r"cache: the layer has d_context=\(8, 8\) .* layer.project_context"):
            layer(x, context, cache=MultiHeadAttention(16, 4).kv_cache(2, 9))


def test_contexts_that_do_not_fit_are_named() -> None:
    layer, x = MultiHeadAttention(16, 4), torch.rand(2, 5, 16)
    with pytest.raises(ValueError, match="context must be given, got None: there is nothing to project"):
        layer.project_context(None)  # type: ignore[arg-type]
    context = layer.project_context(x)
    layer.double()
    with pytest.raises(TypeError, match="context must have x's dtype float64, got a Context of float32"):
        layer(x.double(), context)


def test_a_selection_of_sequences() -> None:
    layer, x = MultiHeadAttention(16, 4), torch.rand(2, 5, 16)
    context = layer.project_context(x)
    for indices in ([1, 1, 0], (1, 1, 0), torch.tensor([1, 1, 0]), torch.tensor([1, 1, 0], dtype=torch.int32)):
        found = context.select(indices)
        assert torch.equal(found.key, context.key[[1, 1, 0]])
        assert torch.equal(found.value, context.value[[1, 1, 0]])
    with pytest.raises(ValueError, match=r"context.select\(indices\): each must be a sequence in 0..1, got -1"):
        context.select(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"context.select\(indices\): each must be a sequence in 0..1, got 2"):
        context.select([2])
    with pytest.raises(TypeError, match=r"context.select\(indices\): .* integers \(n,\), got float32 of shape \(1,\)"):
        context.select(torch.ones(1))
    with pytest.raises(TypeError, match=r"context.select\(indices\): .* integers \(n,\), got int64 of shape \(\)"):
        context.select(torch.tensor(1))
