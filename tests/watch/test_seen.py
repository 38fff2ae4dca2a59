"""What a watch gives: names, records, patterns, what it says where nothing was seen."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Attention, Tower, by_definition, same
from torch import nn

import regard


@pytest.fixture
def model():
    return Tower(3).double()


@pytest.fixture
def x():
    return torch.randn(2, 6, 16, dtype=torch.float64)


def test_records_in_their_order(model, x):
    with regard.watch(model) as seen:
        model(x)
    assert len(seen) == 3
    assert seen.names == [record.name for record in seen] == ["layers.0", "layers.1", "layers.2"]
    assert [(r.module_type, r.step, r.call, r.dtype) for r in seen] == [("Attention", 0, 0, torch.float64)] * 3
    assert seen["layers.1"] is seen[1] is seen[-2]
    assert seen[1:] == list(seen)[1:]
    assert seen.calls("layers.2") == [seen[2]]
    assert [w.shape for w in seen.weights] == [(2, 4, 6, 6)] * 3
    assert "layers.0" in seen
    assert "layers.3" not in seen


def test_values_layer_by_layer(model, x):
    with regard.watch(model) as seen:
        model(x)
    for layer, record in zip(model.layers, seen, strict=True):
        q, k, _ = layer.projected(x)
        same(record.weights, by_definition(q, k))
        x = x + layer(x)


def test_names_without_a_model_are_those_of_the_outermost_module(model, x):
    with regard.watch() as seen:
        model(x)
        model.layers[1](x)
        F.scaled_dot_product_attention(x, x, x)
    assert seen.names == ["layers.0", "layers.1", "layers.2", "(model)", "(no module)"]


def test_a_call_with_no_module_around_is_recorded_beside_a_model(model, x):
    with regard.watch(model) as seen:
        F.scaled_dot_product_attention(x, x, x)
    assert seen.names == ["(no module)"]
    assert seen[0].module_type == ""


def test_a_function_that_is_handed_the_model_is_not_the_model(x):
    attention = Attention().double()

    def train(module):
        attend(module, x, x, x)
        return attention.forward(x)

    with regard.watch() as seen:
        train(attention)
    assert seen.names == ["(no module)", "(model)"]


def test_calls_of_another_model_are_not(model, x):
    other = Attention().double()
    with regard.watch(model) as seen:
        other(x)
        model(x)
    assert seen.names == ["layers.0", "layers.1", "layers.2"]
    match = r"attention was called in 'Attention', which is no part of it"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model):
        other(x)


class Direct(nn.Module):
    """Calls what its parts have without going through their __call__, and hands itself to a function."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Attention(), Attention()

    def forward(self, x):
        x = self.one.forward(x)
        q, k, v = self.two.projected(x)
        return attend(self.two, q, k, v)


def attend(module, query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def test_modules_that_are_not_called_as_modules(x):
    model = Direct().double()
    with regard.watch(model) as seen:
        model(x)
    assert seen.names == ["one", "two"]


class Block(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return x + self.attention(x)


def test_a_shared_module_has_the_name_of_where_it_was_called(x):
    attention = Attention()
    blocks = nn.Sequential(Block(attention), Block(attention)).double()
    with regard.watch(blocks) as seen:
        blocks(x)
    assert seen.names == ["0.attention", "1.attention"]
    q, k, _ = attention.projected(x + attention(x))
    same(seen["1.attention"].weights, by_definition(q, k))


def test_a_block_that_runs_several_times(x):
    block = Block(Attention())
    model = nn.Sequential(block, block, block).double()  # as ALBERT does
    with regard.watch(model) as seen:
        model(x)
    assert seen.names == ["0.attention"] * 3
    assert [record.call for record in seen] == [0, 1, 2]
    assert [record.step for record in seen] == [0, 0, 0]
    with pytest.raises(KeyError, match=r"'0.attention' called attention 3 times: seen.calls\('0.attention'\)"):
        _ = seen["0.attention"]
    assert seen.calls("0.attention") == list(seen)


def test_steps_and_every(model, x):
    with regard.watch(model, every=2) as seen:
        for _ in range(5):
            model(x)
    assert [record.step for record in seen] == [step for step in (0, 2, 4) for _ in range(3)]
    assert [record.call for record in seen.calls("layers.1")] == [0, 1, 2]
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("layers.1", ["layers.1"]),
        ("layers.[02]", ["layers.0", "layers.2"]),
        (["*.1", "layers.2"], ["layers.1", "layers.2"]),
        ("layers", ["layers.0", "layers.1", "layers.2"]),
    ],
)
def test_patterns(model, x, patterns, expected):
    with regard.watch(model, modules=patterns) as seen:
        model(x)
    assert seen.names == expected
    with regard.watch(modules=patterns) as seen:
        model(x)
    assert seen.names == expected


def test_patterns_that_match_nothing(model, x):
    with pytest.raises(
        ValueError, match=r"modules\): 'layer.1' matches no module of the model; did you mean 'layers.1'"
    ):
        regard.watch(model, modules="layer.1")
    match = r"no attention call seen in modules=\['layer.1'\]; attention was called in 'layers.0', 'layers.1'"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(modules="layer.1"):
        model(x)


def test_patterns_that_match_what_does_not_attend(model, x):
    match = r"attention was called in 'layers\.0'"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model, modules="layers.0.q"):
        model(x)


def test_each_pattern_without_a_model_matches_something(model, x):
    match = r"no attention call seen in modules='layers\.7'; did you mean 'layers\."
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(modules=["layers.1", "layers.7"]):
        model(x)
    with pytest.raises(ArithmeticError), regard.watch(modules=["layers.1", "layers.7"]):
        fails(model(x))


def fails(output):
    raise ArithmeticError


def test_forwards_that_cannot_be_counted(model, x):
    match = r"watch\(every=2\): no forward of the model was counted.*model\(\.\.\.\), not model\.forward"
    for run in (model.forward, model.layers[0]):
        with pytest.raises(RuntimeError, match=match), regard.watch(model, every=2) as seen:
            run(x)
        assert len(seen) > 0
    with pytest.raises(ArithmeticError), regard.watch(model, every=2):
        fails(model.forward(x))


def test_unknown_names(model, x):
    with regard.watch(model) as seen:
        model(x)
    with pytest.raises(KeyError, match=r"no attention call of 'layers.7' was recorded; did you mean 'layers."):
        _ = seen["layers.7"]
    with pytest.raises(IndexError):
        _ = seen[3]


def test_an_error_of_the_model_is_not_hidden(model):
    with pytest.raises(ValueError, match="from inside"), regard.watch(model):
        raise ValueError("from inside")
    assert not model._forward_pre_hooks
    assert torch.overrides._len_torch_function_stack() == 0


def test_reading_while_it_is_open(model, x):
    with regard.watch(model) as seen:
        assert len(seen) == 0
        assert repr(seen).startswith("Seen: 0 attention calls")
        model(x)
        entropy = seen[0].weights.entropy()
        seen[0].weights.to_dense()
        seen[0].weights.topk(2)
        assert len(seen) == 3
    assert torch.equal(seen[0].weights.entropy(), entropy)


def test_a_watch_is_entered_once(model, x):
    watch = regard.watch(model)
    with watch as seen:
        model(x)
        with pytest.raises(RuntimeError, match="this watch is open already"), watch:
            pass
    with pytest.raises(RuntimeError, match="this watch has ended; make another one"), watch:
        pass
    assert len(seen) == 3


def test_nested_watches_both_record(model, x):
    with regard.watch(model) as outer:
        with regard.watch(model.layers[1]) as inner:
            model(x)
        nn.MultiheadAttention(16, 2).double()(x, x, x)
        model(x)
    assert outer.names == ["layers.0", "layers.1", "layers.2"] * 2
    assert inner.names == ["(model)"]
    same(inner[0].weights, outer[1].weights.to_dense())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": 3}, TypeError, r"watch\(model\): expected a torch.nn.Module or None, got int"),
        ({"modules": 3}, TypeError, None),
        ({"modules": [3]}, TypeError, r"watch\(modules\): expected a pattern"),
        ({"modules": []}, TypeError, r"watch\(modules\): expected a pattern"),
        ({"every": 0}, ValueError, r"watch\(every\): expected at least 1, got 0"),
        ({"every": 1.0}, TypeError, r"watch\(every\): expected an integer, got float"),
        ({"every": 2}, ValueError, r"watch\(every=2\): forwards are counted on a model; pass it"),
        ({"hold": "gpu"}, ValueError, r"watch\(hold\): expected one of 'reference', 'copy', 'cpu', got 'gpu'"),
        ({"hold": "copy", "detach": False}, ValueError, "a graph is that of the tensors"),
        ({"keep": "entropy"}, TypeError, re.escape("write keep=['entropy']")),
        ({"keep": []}, ValueError, "at least one question"),
        ({"keep": ["entropie"]}, ValueError, r"watch\(keep\): 'entropie' cannot be asked.*did you mean 'entropy'"),
        ({"keep": ["topk"]}, ValueError, r"watch\(keep\): topk takes 1 argument"),
        ({"keep": [3]}, TypeError, r"watch\(keep\): a question is a name"),
        ({"keep": [("mass", [0, 1])]}, TypeError, "cannot be the key of an answer"),
        ({"keep": [("topk", 0)]}, ValueError, r"watch\(keep\): \('topk', 0\): topk\(k\)"),
        ({"keep": [("topk", "a")]}, TypeError, r"watch\(keep\): \('topk', 'a'\): .* must be an integer"),
        ({"keep": [("pool", 2, 2, "sum")]}, ValueError, r"watch\(keep\): .*reduce must be 'mean' or 'max'"),
        ({"keep": [("pool", 0, 10**9)]}, ValueError, r"watch\(keep\): .*rows must be"),
        ({"keep": [("mass", "x")]}, TypeError, r"watch\(keep\): \('mass', 'x'\): .*keys must be an index"),
    ],
)
def test_arguments(options, error, match):
    with pytest.raises(error, match=match):
        regard.watch(**options)


def test_a_table(model, x):
    with regard.watch(model) as seen:
        model(x, is_causal=True)
    title, head, first, *_ = repr(seen).splitlines()
    assert title == "Seen: 3 attention calls"
    assert head.split() == ["module", "function", "shape", "mask"]
    assert first.split() == [
        "0",
        "layers.0",
        "F.scaled_dot_product_attention",
        *["2", "x", "4", "x", "6", "x", "6"],
        "causal(offset=0)",
    ]
    assert repr(seen[0]) == (
        "Record('layers.0', F.scaled_dot_product_attention, 2 x 4 x 6 x 6, float64, mask=causal(offset=0))"
    )
    assert seen._repr_html_().count("<tr>") == 4


def test_a_long_table_is_cut(model, x):
    with regard.watch(model) as seen:
        for _ in range(20):
            model(x)
    lines = repr(seen).splitlines()
    assert lines[0] == "Seen: 60 attention calls in 20 forwards"
    assert len(lines) == 2 + 40 + 1
    assert "20 more" in lines[22]
    assert lines[-1].startswith("59")


def test_names_are_escaped_in_html(x):
    model = nn.ModuleDict({"<b>": Attention()}).double()
    with regard.watch(model) as seen:
        model["<b>"](x)
    assert "<td>&lt;b&gt;</td>" in seen._repr_html_()


def test_a_page(model, x, tmp_path):
    with regard.watch(model) as seen:
        model(x, is_causal=True)
    path = seen.page(tmp_path / "page.html", list("abcdef"), title="a page")
    assert "<title>" in path.read_text(encoding="utf-8")
