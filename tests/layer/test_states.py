"""What a layer is made of: state dicts old and new, parameters drawn anew, the meta device, what the repr shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.layer.definition import drawn
from torch import nn

from regard import MultiHeadAttention, QKNorm, masks
from regard.positions import RelativeBias, Rotary
from regard.qk_norm import HeadwiseLayerNorm, OffsetRMSNorm

SAVED = json.loads((Path(__file__).parent / "saved_0_1_0.json").read_text())


@pytest.mark.parametrize("name", SAVED)
def test_a_state_saved_by_version_0_1_0_loads(name: str):
    saved = SAVED[name]
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["arguments"].items()}
    layer = MultiHeadAttention(**arguments, dtype=torch.float64)
    layer.load_state_dict({k: torch.tensor(v, dtype=torch.float64) for k, v in saved["state"].items()}, strict=True)
    assert list(layer.state_dict()) == list(saved["state"])
    x, context = torch.tensor(saved["x"], dtype=torch.float64), saved["context"]
    pair = None if context is None else tuple(torch.tensor(t, dtype=torch.float64) for t in context)
    out = layer(x, pair, mask=masks.causal() if context is None else None)
    torch.testing.assert_close(out, torch.tensor(saved["output"], dtype=torch.float64), rtol=0, atol=1e-13)


def everything(**options: object) -> MultiHeadAttention:
    given = {
        "num_kv_heads": 2,
        "bias": {"q", "out", "gate"},
        "mask": masks.causal() & masks.window(3),
        "positions": RelativeBias(4, num_buckets=4, max_distance=8),
        "norm": QKNorm(OffsetRMSNorm(2), HeadwiseLayerNorm(2, 2), when="after"),
        "scale": 0.25,
        "softcap": 5.0,
        "sinks": True,
        "gate": "headwise",
    }
    return MultiHeadAttention(8, 4, **{**given, **options})


NAMES = [
    *("sinks", "positions.weight", "norm.q.weight", "norm.k.weight", "in_proj.weight", "in_proj.bias"),
    *("out_proj.weight", "out_proj.bias", "gate_proj.weight", "gate_proj.bias"),
]


def test_names_and_shapes_of_all_parts():
    layer = everything()
    assert sorted(layer.state_dict()) == sorted(NAMES)
    shapes = {name: tuple(t.shape) for name, t in layer.state_dict().items()}
    assert shapes["in_proj.bias"] == (8,)  # of q alone
    assert shapes["in_proj.weight"] == (16, 8)
    assert shapes["sinks"] == (4,)
    assert shapes["gate_proj.weight"] == (4, 8)
    assert tuple(everything(gate="elementwise", d_v=12).gate_proj.weight.shape) == (12, 8)
    twin = everything()
    twin.load_state_dict(drawn(layer).state_dict())
    x = torch.randn(2, 5, 8)
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_parameters_of_every_part_are_drawn_anew():
    layer = drawn(everything())
    torch.manual_seed(3)
    layer.reset_parameters()
    assert not any(t.any() for t in (layer.sinks, layer.in_proj.bias, layer.out_proj.bias, layer.gate_proj.bias))
    assert not layer.norm.q.weight.any()
    assert (layer.norm.k.weight == 1).all()
    assert 0 < layer.positions.weight.abs().max() < 0.2  # normal, of standard deviation 0.02
    first = copy.deepcopy(layer.state_dict())
    drawn(layer)
    torch.manual_seed(3)
    layer.reset_parameters()
    assert all(torch.equal(first[name], t) for name, t in layer.state_dict().items())


def test_making_a_layer_leaves_norms_and_positions_that_were_given_as_they_are():
    norm, positions = QKNorm.rms(2), RelativeBias(4)
    with torch.no_grad():
        norm.q.weight.fill_(3)
    before = positions.weight.clone()
    layer = MultiHeadAttention(8, 4, norm=norm, positions=positions)
    assert layer.norm is norm
    assert (norm.q.weight == 3).all()
    assert torch.equal(positions.weight, before)


def test_a_norm_that_cannot_be_drawn_anew_is_named():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.factor

    layer = MultiHeadAttention(8, 4, norm=QKNorm(Own(), nn.Identity()))
    with pytest.raises(ValueError, match=r"norm has a Own with parameters and without reset_parameters\(\)"):
        layer.reset_parameters()
    assert layer(torch.zeros(2, 3, 8)).shape == (2, 3, 8)


def test_plain_layers_draw_the_numbers_they_always_drew():
    torch.manual_seed(0)
    plain = MultiHeadAttention(8, 4)
    after = torch.rand(1)
    torch.manual_seed(0)
    more = MultiHeadAttention(8, 4, sinks=True, positions=Rotary(2), norm=QKNorm.rms(2), softcap=3.0)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(t, more.state_dict()[name]) for name, t in plain.state_dict().items())


@pytest.mark.parametrize("d_context", [None, 6])
def test_on_the_meta_device_and_off_it(d_context: int | None):
    options = {"d_context": d_context, "gate": "elementwise", "sinks": True, "bias": {"q", "v"}, "softcap": 4.0}

    def made(device: str) -> MultiHeadAttention:
        norm, positions = QKNorm.rms(2, device=device), RelativeBias(4, device=device)
        return MultiHeadAttention(8, 4, norm=norm, positions=positions, device=device, **options)

    layer = made("meta")
    assert all(t.is_meta for t in layer.state_dict().values())
    x, context = torch.zeros(2, 5, 8), None if d_context is None else torch.zeros(2, 5, 6)
    offset = None if d_context is None else 0
    there = layer(x.to("meta"), None if context is None else context.to("meta"), offset=offset)
    assert (there.shape, there.device.type) == ((2, 5, 8), "meta")
    with pytest.raises(TypeError, match="x must have the layer's dtype float32, got float64"):
        layer(x.to("meta").double())
    with pytest.raises(ValueError, match="x must be on the layer's device meta, got cpu"):
        layer(x)
    layer.to_empty(device="cpu")
    torch.manual_seed(0)
    layer.reset_parameters()
    here = made("cpu")
    torch.manual_seed(0)
    here.reset_parameters()
    assert all(torch.equal(t, layer.state_dict()[name]) for name, t in here.state_dict().items())
    assert layer(x, context, offset=offset).shape == (2, 5, 8)


def test_repr_shows_options_where_they_differ():
    shown = repr(everything())
    for part in ("mask=causal() & window(3)", "scale=0.25", "softcap=5.0", "gate='headwise'", "sinks=True"):
        assert part in shown
    assert "(in_proj): FusedProjection(in_features=8, out_features=16, bias=q)" in shown
    assert "(norm): QKNorm(\n    when='after'\n" in shown
    assert "(q): OffsetRMSNorm(2, eps=1e-06)" in shown
    assert "(k): HeadwiseLayerNorm(2, 2, eps=1e-05)" in shown
    plain = repr(MultiHeadAttention(8, 4))
    assert not any(word in plain for word in ("mask", "scale", "softcap", "gate", "sinks", "positions", "norm"))
    assert "(in_proj): FusedProjection(in_features=8, out_features=24, bias=True)" in plain
    assert "over='all'" in repr(QKNorm(nn.RMSNorm(8), nn.RMSNorm(8), over="all"))
