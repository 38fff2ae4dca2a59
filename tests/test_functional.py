"""attention() against the definition in float64, over random shapes, dtypes, strides, masks and options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests import intervention_properties, properties
from tests.shapes import Shape
from tests.strategies import LAYOUTS, Case, cases, examples, strided

import regard
from regard import masks

ALL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@examples(120)
@given(cases(dtypes=ALL_DTYPES))
def test_output_and_lse_are_those_of_the_definition(case: Case):
    properties.matches_the_definition(regard.attention, case)


@examples(60)
@given(cases(dtypes=ALL_DTYPES))
def test_the_reference_path_is_the_definition_too(case: Case):
    properties.matches_the_definition(lambda *a, **o: regard.attention(*a, **o, impl="reference"), case)


@examples(60)
@given(cases(dtypes=(torch.float64, torch.float32)))
def test_gradients_are_those_of_the_definition(case: Case):
    properties.gradients_match_the_definition(regard.attention, case)


@examples(40)
@given(cases())
def test_gradients_through_lse_are_those_of_the_definition(case: Case):
    properties.gradients_match_the_definition(regard.attention, case, through_lse=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(3)], ids=str)
def test_strides_do_not_matter(layout, mask):
    properties.strides_do_not_matter(regard.attention, layout, mask)


@pytest.mark.parametrize("width", [1, 3, 7, 13, 31])
def test_odd_widths_are_right_and_the_same_twice(width):
    shape = Shape((2,), 2, 1, 9, 11, width, 2 * width + 1)
    generator = torch.Generator().manual_seed(0)
    q = strided((2, 2, 9, width), "sliced", generator, torch.float32)
    k = strided((2, 1, 11, width), "sliced", generator, torch.float32)
    v = strided((2, 1, 11, 2 * width + 1), "sliced", generator, torch.float32)
    case = Case(shape, q, k, v)
    properties.matches_the_definition(regard.attention, case)
    assert torch.equal(case.run(regard.attention)[0], case.run(regard.attention)[0])


def test_rows_sum_to_one():
    properties.rows_sum_to_one(regard.attention)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (6, 3), (4, 4), (3, 1)])
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(2)], ids=str)
def test_grouped_heads_are_interleaved(heads, kv_heads, mask):
    intervention_properties.grouped_heads_are_interleaved(regard.attention, heads, kv_heads, mask)


def test_inputs_without_heads_are_one_head():
    q, k, v = properties.problem(3, 1, query_len=4, key_len=6)
    want, weights = regard.attention(q, k, v, masks.causal())
    batched, w3 = regard.attention(q[:, 0], k[:, 0], v[:, 0], masks.causal())
    single, w2 = regard.attention(q[1, 0], k[1, 0], v[1, 0], masks.causal())
    assert torch.equal(batched, want[:, 0])
    # The kernel may take another block for another batch: equal to rounding.
    torch.testing.assert_close(single, want[1, 0], rtol=0, atol=1e-14)
    assert (weights.shape, w3.shape, w2.shape) == ((3, 1, 4, 6), (3, 4, 6), (4, 6))
    assert (w3.lse.shape, w2.lse.shape) == ((3, 4), (4,))


def test_float_bias_of_zeros_and_minus_infinity_is_the_boolean_mask():
    q, k, v = properties.problem(2, 2, query_len=6, key_len=7)
    allowed = masks.causal().to_dense(6, 7)
    bias = torch.zeros(6, 7, dtype=q.dtype).masked_fill(~allowed, -torch.inf)
    got, want = regard.attention(q, k, v, bias=bias)[0], regard.attention(q, k, v, allowed)[0]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=["no batch", "no queries", "no keys"])
@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(2)], ids=str)
def test_sizes_of_zero(sizes, impl, mask):
    batch, heads, query_len, key_len = sizes
    q = torch.randn(batch, heads, query_len, 5, requires_grad=True)
    k, v = torch.randn(batch, heads, key_len, 5), torch.randn(batch, heads, key_len, 6)
    output, weights = regard.attention(q, k, v, mask, impl=impl)
    assert output.shape == (batch, heads, query_len, 6)
    assert not output.any()
    assert weights.shape == sizes
    assert weights.to_dense().shape == sizes
    assert (weights.lse == -torch.inf).all()
    output.sum().backward()
    assert not q.grad.any()


def test_a_call_does_not_touch_the_global_generator():
    q, k, v = properties.problem(1, 1, query_len=3, key_len=3)
    state = torch.get_rng_state()
    regard.attention(q, k, v, masks.causal())[1].entropy()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_autograd_the_output_is_the_same(context):
    q, k, v = (t.requires_grad_() for t in properties.problem(1, 2, query_len=5, key_len=5))
    want = regard.attention(q, k, v, masks.causal())[0]
    with context():
        got, weights = regard.attention(q, k, v, masks.causal())
        assert torch.equal(weights @ v, got)
    assert torch.equal(got, want)
    assert not got.requires_grad


PLANS = {
    "fused: PyTorch's fused op on cpu, 1 full tile, 100% of the entries": {},
    "fused: PyTorch's fused op on cpu, 1 causal tile, 56% of the entries": {"mask": masks.causal()},
    "rows: softcap has no fused op": {"softcap": 2.0},
    "rows: dropout has no fused op that can be replayed in the backward pass": {"dropout": 0.5},
    "reference: the definition, with L x S memory, as asked": {"impl": "reference"},
}


@pytest.mark.parametrize("plan", PLANS)
def test_the_plan_says_what_ran(plan):
    q, k, v = properties.problem(1, 1, query_len=8, key_len=8)
    assert str(regard.attention(q, k, v, **PLANS[plan])[1].plan) == plan


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"softcap": 2.0}, "softcap has no fused op"), ({"dropout": 0.5}, "dropout has no fused op")],
    ids=["softcap", "dropout"],
)
def test_fused_refuses_with_its_reason(options, reason):
    q, k, v = properties.problem(1, 1, query_len=8, key_len=8)
    with pytest.raises(ValueError, match=f'impl="fused": {reason}.*; use impl="auto"'):
        regard.attention(q, k, v, **options, impl="fused")


def test_fused_is_auto_where_there_is_a_fused_op():
    q, k, v = properties.problem(1, 1, query_len=8, key_len=8)
    assert torch.equal(regard.attention(q, k, v, impl="fused")[0], regard.attention(q, k, v)[0])
