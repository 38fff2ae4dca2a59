"""A layer cut by heads over 2 and 4 ranks is the whole layer: outputs, every gradient, weights, caches; or refused."""

from __future__ import annotations

import re

import pytest
import torch
from tests.distributed import asked, asked_cut, asked_heads

import regard


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", asked_heads.LAYERS)
def test_a_layer_cut_by_heads_is_the_whole_layer(crew, name, world):
    for found in crew(asked.on, world, asked_heads.by_heads, name)[:world]:
        assert set(found) >= {"output", "x", "q_proj.weight", "out_proj.weight"}
        for what, worst in found.items():
            assert worst <= 1e-12, (what, worst)


def test_weights_and_caches_are_of_the_heads_of_a_rank(crew):
    for rank, found in enumerate(crew(asked.on, 4, asked_heads.weights_and_cache)):
        assert found["kv heads"] == 1
        assert f"heads={2 * rank}:{2 * rank + 2} of 8" in found["shown"]
        for what in ("output", "weights", "cache"):
            assert found[what] <= 1e-12, what


SAID = {
    "heads": r"ValueError: num_heads must be a multiple of the number of ranks, 4, which share the heads, got 6;",
    "kv heads": r"ValueError: num_kv_heads must be a multiple of the number of ranks, 4, .* got 2",
    "dropout": r"ValueError: HeadParallel\(\) goes without dropout of weights, got dropout=0.1: .*layer.dropout = 0",
    "norm over all": r'ValueError: HeadParallel\(\): norm must be QKNorm\(..., over="head"\), got over="all"',
    "own norm": r"TypeError: HeadParallel\(\): norm.q must be a torch.nn.RMSNorm or LayerNorm, .* got PReLU: its param",
    "relative": r"ValueError: HeadParallel\(\): positions must be rotations .*got RelativeBias\(4",
    "learned slopes": r"ValueError: HeadParallel\(\): positions must be rotations .*got ALiBi\(4",
    "own slopes' class": r"ValueError: HeadParallel\(\): positions must be rotations .*or ALiBi .*got Steeper\(4",
    "hidden activation": r"TypeError: HiddenParallel\(\): the activation must be without parameters, .* got PReLU",
    "class": r"TypeError: HeadParallel\(\) is for a regard.MultiHeadAttention, got Linear; name the attention layers",
    "wrapped": r"TypeError: HeadParallel\(\): in_proj must be the FusedProjection .* got Linear; do this first",
    "hooked": r"TypeError: HeadParallel\(\): out_proj must be the Projection .* without hooks, got Projection",
    "hidden class": r"TypeError: HiddenParallel\(\) is for the feed-forward part of a block of .*, got Linear",
    "hidden width": r"ValueError: the hidden layer must divide among 4 ranks, got 30 columns in GatedFeedForward",
}


@pytest.mark.parametrize("name", SAID)
def test_what_cannot_be_cut_is_refused_by_name(crew, name):
    for found in crew(asked.on, 4, asked_heads.refused, name):
        assert re.match(SAID[name], found), found


def test_dropout_that_comes_later_is_refused(crew):
    for found in crew(asked.on, 4, asked_heads.dropped):
        assert re.match(r"dropout of weights must be 0 in a layer that is cut by heads, got 0.5: .*\.eval\(\)", found)


@pytest.mark.parametrize("what", ["q_proj.weight", "out_proj.bias", "norm.q.weight"])
def test_whole_parameters_in_a_layer_that_is_cut_are_refused(crew, what):
    for found in crew(asked.on, 4, asked_cut.assigned, what):
        said = rf"{what.split('.')[-1]} of a layer that is cut over ranks must be a DTensor, got a plain .*assign=True"
        assert re.match(said, found), found


@pytest.mark.parametrize("what", ["numbers", "shape"])
def test_an_x_that_differs_between_ranks_is_refused_on_all(crew, what):
    for (refused,) in crew(asked.on, 4, asked_cut.another_x, what):
        said = (
            r"x must be the same on every rank .* got another on rank 3 than on rank 0: make the whole model with one"
        )
        assert re.match(said, refused), refused


def test_a_norm_that_layers_share_stays_one(crew):
    assert max(crew(asked.on, 4, asked_cut.shared_norm)) <= 1e-12


def test_clipping_and_a_step_of_many_parameters_at_a_time(crew):
    assert max(crew(asked.on, 4, asked_cut.clipped)) <= 1e-12


@pytest.mark.parametrize("of", ["x", "weight"])
def test_a_second_derivative_is_refused(crew, of):
    for found in crew(asked.on, 4, asked_cut.twice, of):
        assert found.startswith("attention over ranks has first derivatives only, and create_graph=True asked"), found


def test_parameters_are_drawn_for_the_whole_layer(crew):
    assert crew(asked.on, 4, asked_heads.drawn) == [[]] * 4


def test_a_mask_of_another_number_of_heads_is_refused(crew):
    for found in crew(asked.on, 4, asked_heads.mask_of_other_heads):
        assert re.match(r"mask must be that of the whole layer, whose num_heads is 8, or one .* got 2 heads", found), (
            found
        )


@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
def test_heads_over_some_ranks_and_texts_over_others(crew, order):
    for found in crew(asked_heads.heads_and_text, order):
        assert set(found) == {"causal", "by head"}
        assert max(found.values()) <= 1e-12, found


def test_a_layer_that_is_cut_is_not_one_of_torch(crew):
    for found in crew(asked.on, 4, asked_heads.to_torch):
        assert "ColumnProjection in the place of a projection" in found


@pytest.mark.parametrize("name", asked_heads.MODELS)
def test_the_plan_of_a_model(crew, name):
    assert max(crew(asked.on, 4, asked_heads.planned, name)) <= 1e-12


def test_a_model_that_is_cut_writes_the_same_text(crew):
    assert all(crew(asked.on, 4, asked_heads.generated))


def test_an_unfused_layer_is_the_layer():
    for name in asked_heads.LAYERS:
        if "d_context" not in asked_heads.LAYERS[name][0]():
            layer = asked_heads.made(name)
            truth, wanted = asked_heads.run(layer, name)
            out, gradients = asked_heads.run(regard.distributed.unfuse(asked_heads.made(name)), name)
            assert asked.difference(out, truth) <= 1e-13
            assert asked.difference(gradients["x"], wanted["x"]) <= 1e-12
            rows = [gradients[f"{part}_proj.weight"] for part in "qkv"]
            assert asked.difference(torch.cat(rows), wanted["in_proj.weight"]) <= 1e-12


def test_unfusing_keeps_what_is_frozen_and_trained():
    layer = regard.MultiHeadAttention(16, 4, bias={"q", "out"}).eval()
    layer.in_proj.weight.requires_grad_(False)
    regard.distributed.unfuse(torch.nn.ModuleList([layer]))
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == [
        "q_proj.bias",
        "out_proj.weight",
        "out_proj.bias",
    ]
    assert not layer.k_proj.training
    assert layer.k_proj.bias is None
    assert list(layer._modules)[:3] == ["q_proj", "k_proj", "v_proj"]


def test_unfusing_refuses_a_wrapped_projection_and_changes_nothing():
    model = torch.nn.ModuleList([regard.MultiHeadAttention(16, 4), asked_heads.REFUSED["wrapped"]()])
    with pytest.raises(
        TypeError, match=r"unfuse\(module\): in_proj must be the FusedProjection .* got Linear; do this"
    ):
        regard.distributed.unfuse(model)
    assert hasattr(model[0], "in_proj")


def test_to_torch_of_an_unfused_layer():
    layer = regard.distributed.unfuse(regard.MultiHeadAttention(16, 4))
    x = torch.rand(2, 5, 16)
    torch.testing.assert_close(layer.to_torch()(x, x, x)[0], layer(x))
