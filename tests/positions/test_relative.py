"""T5's relative bias: buckets as in T5, the tensor by its definition, what it costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.allocations import largest_of

import regard
from regard.positions import RelativeBias

CPU = torch.device("cpu")


def sizes(heads: int, dtype: torch.dtype = torch.float32) -> dict:
    return {"num_heads": heads, "device": CPU, "dtype": dtype}


def test_buckets_by_hand():
    # 8 buckets, two sides: distances 0 and 1, then from 2 and from 2 * sqrt(max_distance / 2) = 4.
    relative = RelativeBias(1, num_buckets=8, max_distance=8)
    got = relative.buckets(torch.tensor([-9, -4, -3, -2, -1, 0, 1, 2, 3, 4, 9]))
    assert got.tolist() == [3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7]
    one = RelativeBias(1, num_buckets=4, max_distance=8, two_sided=False)
    assert one.buckets(torch.tensor([-9, -4, -3, -2, -1, 0, 1, 9])).tolist() == [3, 3, 2, 2, 1, 0, 0, 0]


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"),
    [(32, 128), (4, 8), (4, 5), (64, 256), (32, 100), (128, 70), (20, 10_000), (6, 1000)],
)
def test_buckets_of_transformers(num_buckets, max_distance, two_sided):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    relative = RelativeBias(1, num_buckets=num_buckets, max_distance=max_distance, two_sided=two_sided)
    distance = torch.arange(-max_distance - 300, max_distance + 300)
    want = t5.T5Attention._relative_position_bucket(distance, two_sided, num_buckets, max_distance)
    assert torch.equal(relative.buckets(distance), want)


@given(
    query_len=st.integers(0, 9),
    past=st.integers(0, 9),
    heads=st.integers(1, 3),
    two_sided=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=40)
def test_every_entry_is_the_weight_of_its_bucket(query_len, past, heads, two_sided, dtype):
    relative = RelativeBias(heads, num_buckets=8, max_distance=9, two_sided=two_sided)
    key_len = query_len + past
    bias = relative.bias(query_len, key_len, **sizes(heads, dtype))
    assert bias.shape == (heads, query_len, key_len)
    assert bias.dtype == dtype
    for i in range(query_len):
        for j in range(key_len):
            bucket = relative.buckets(torch.tensor(j - (past + i)))
            assert torch.equal(bias[:, i, j], relative.weight[bucket].to(dtype))


def test_as_in_t5():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    transformers = pytest.importorskip("transformers")
    for is_decoder in (True, False):
        config = transformers.T5Config(d_model=8, num_heads=2, is_decoder=is_decoder)
        theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
        ours = RelativeBias(2, two_sided=not is_decoder)
        ours.weight.data = theirs.relative_attention_bias.weight.data
        assert torch.equal(ours.bias(200, 200, **sizes(2)), theirs.compute_bias(200, 200)[0])
        assert torch.equal(ours.bias(1, 201, **sizes(2)), theirs.compute_bias(1, 201, past_seen_tokens=200)[0])


def test_gradient_counts_what_each_bucket_was_used_for():
    relative = RelativeBias(2, num_buckets=4, max_distance=8, two_sided=False)
    direction = torch.randn(2, 5, 7)
    (relative.bias(5, 7, **sizes(2)) * direction).sum().backward()
    want = torch.zeros(4, 2)
    for i in range(5):
        for j in range(7):
            want[relative.buckets(torch.tensor(j - 2 - i))] += direction[:, i, j]
    torch.testing.assert_close(relative.weight.grad, want)


def test_the_memory_is_that_of_the_tensor():
    relative = RelativeBias(2)
    with torch.no_grad():
        seen = largest_of(lambda: relative.bias(300, 500, **sizes(2)))
    assert seen.elements == 2 * 300 * 500, seen.operation
    assert "float32" in seen.operation


def test_past_its_training_length_the_last_bucket_goes_on():
    relative = RelativeBias(1, max_distance=16, num_buckets=8)
    far = relative.bias(1, 10_000, **sizes(1))[0, 0]
    assert (far[:9000] == relative.weight[3, 0]).all()


def test_in_attention():
    q, k, v = torch.randn(3, 1, 2, 6, 4).unbind()
    relative = RelativeBias(2)
    bias = relative.bias(6, 6, **sizes(2))
    out, _ = regard.attention(q, k, v, bias=bias, scale=1.0)
    want = torch.softmax(q @ k.mT + bias, dim=-1) @ v
    torch.testing.assert_close(out, want)


def test_made_on_the_meta_device():
    with torch.device("meta"):
        relative = RelativeBias(2, num_buckets=8, max_distance=20)
    assert relative.weight.is_meta
    here = RelativeBias(2, num_buckets=8, max_distance=20)
    relative.load_state_dict(here.state_dict(), assign=True)
    assert torch.equal(relative.bias(5, 5, **sizes(2)), here.bias(5, 5, **sizes(2)))
    assert list(here.state_dict()) == ["weight"]


def test_plot():
    pytest.importorskip("matplotlib")
    (axes,) = RelativeBias(3).plot().axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key's position less query's", "bias")
    assert len(axes.lines) == 3
    at, values = axes.lines[0].get_data()
    assert (at[0], at[-1], len(values)) == (-160, 160, 321)


def test_repr():
    assert repr(RelativeBias(3)) == "RelativeBias(3, num_buckets=32, max_distance=128)"
    assert repr(RelativeBias(3, two_sided=False)).endswith("max_distance=128, two_sided=False)")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        (
            {"num_buckets": 7},
            ValueError,
            "num_buckets must be an even number of at least 4 if two_sided, got 7; T5 has 32",
        ),
        ({"num_buckets": 2}, ValueError, "num_buckets must be an even number of at least 4 if two_sided, got 2"),
        ({"num_buckets": 1, "two_sided": False}, ValueError, "num_buckets must be at least 2, got 1; T5 has 32"),
        ({"num_buckets": 3.0}, TypeError, "num_buckets must be an integer, got float"),
        ({"max_distance": 8}, ValueError, "max_distance must be above 8, the distances that have a bucket each, got 8"),
        ({"two_sided": 1}, TypeError, "two_sided must be True or False, got int"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        RelativeBias(**{"num_heads": 2, **options})


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        (
            (2, 3),
            {"num_heads": 4},
            r"positions=RelativeBias\(2, .*: one bias a query head, expected num_heads=4, got 2",
        ),
        ((4, 3), {}, r"query_len must be in \[0, key_len\], since the queries are the last of the keys, got 4 and 3"),
        ((2, 3), {"device": torch.device("meta")}, "weight must be on query's device meta, got cpu; move the module"),
    ],
)
def test_bad_questions(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        RelativeBias(2).bias(*lengths, **{**sizes(2), **options})


def test_layers_that_do_not_fit():
    RelativeBias(2).check_layer(num_heads=2, num_kv_heads=1, head_dim=8)
    with pytest.raises(ValueError, match="one bias a query head, expected num_heads=4, got 2"):
        RelativeBias(2).check_layer(num_heads=4, num_kv_heads=2, head_dim=8)
