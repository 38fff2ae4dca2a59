from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regard import MultiHeadAttention, masks, reference

# Reordered sums of some tens of terms of order 1, relative to the largest of them.
FLOAT32 = {"rtol": 2e-5, "atol": 3e-6}
FLOAT64 = {"rtol": 0, "atol": 1e-13}


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T if layer.bias is None else x @ layer.weight.T + layer.bias


def by_definition(
    layer: MultiHeadAttention,
    x: Tensor,
    context: Tensor | tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and weights from the parameters alone, head by head."""
    key_input, value_input = (
        context if isinstance(context, tuple) else (x, x) if context is None else (context, context)
    )
    h, kv = layer.num_heads, layer.num_kv_heads
    d, dv = layer.d_k // h, layer.d_v // h
    if layer.d_context is None:
        every = [linear(layer.in_proj, t) for t in (x, key_input, value_input)]
        ends = (h * d, h * d + kv * d, h * d + kv * d + kv * dv)
        q, k, v = every[0][..., : ends[0]], every[1][..., ends[0] : ends[1]], every[2][..., ends[1] : ends[2]]
    else:
        q, k, v = linear(layer.q_proj, x), linear(layer.k_proj, key_input), linear(layer.v_proj, value_input)
    outputs, weights = [], []
    for i in range(h):
        j = i // (h // kv)
        head = reference.attention(
            q[..., i * d : (i + 1) * d],
            k[..., j * d : (j + 1) * d],
            v[..., j * dv : (j + 1) * dv],
            None if mask is None else mask[..., i, :, :],
        )
        outputs.append(head.output)
        weights.append(head.weights)
    return linear(layer.out_proj, torch.cat(outputs, dim=-1)), torch.stack(weights, dim=-3)


def test_by_hand():
    layer = MultiHeadAttention(2, 2, bias=False)
    with torch.no_grad():
        layer.in_proj.weight.copy_(torch.eye(2).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0]]))
    # Head 0 sees the first feature: q = k = v = (1, 0), scores ((1, 0), (0, 0)). Head 1 the second: the same, mirrored.
    output, weights = layer(torch.eye(2), need_weights=True)
    larger = 1 / (1 + math.exp(-1))
    smaller = 1 - larger
    wanted = [[[larger, smaller], [0.5, 0.5]], [[0.5, 0.5], [smaller, larger]]]
    torch.testing.assert_close(weights.to_dense(), torch.tensor(wanted))
    torch.testing.assert_close(output, torch.tensor([[larger, 5.0], [0.5, 10 * larger]]))


@st.composite
def layers(draw: st.DrawFn) -> MultiHeadAttention:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    widths = st.integers(1, 4).map(lambda n: n * heads)
    context = st.none() | st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5))
    d_in = draw(st.integers(1, 6))
    return MultiHeadAttention(
        d_in,
        heads,
        num_kv_heads=kv_heads,
        d_k=draw(widths),
        d_v=draw(st.none() | widths),
        d_out=draw(st.none() | st.integers(1, 5)),
        d_context=draw(context),
        bias=draw(st.booleans()),
    )


@settings(max_examples=50)
@given(
    layer=layers(),
    lead=st.sampled_from([(), (1,), (3,), (2, 3)]),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    masked=st.booleans(),
    context_kind=st.sampled_from(["self", "one", "pair"]),
)
def test_against_the_definition_in_float64(
    layer: MultiHeadAttention, lead: tuple[int, ...], sizes: tuple[int, int], masked: bool, context_kind: str
):
    torch.manual_seed(0)
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)  # biases too, which start at 0
    query_len, key_len = sizes
    x = torch.randn(*lead, query_len, layer.d_in, dtype=torch.float64)
    widths = layer.d_context or (layer.d_in, layer.d_in)
    context = None
    if context_kind != "self" or layer.d_context:
        pair = tuple(torch.randn(*lead, key_len, width, dtype=torch.float64) for width in widths)
        context = pair[0] if context_kind == "one" and widths[0] == widths[1] else pair
    key_len = query_len if context is None else key_len
    mask = torch.rand(*lead, layer.num_heads, query_len, key_len) < 0.6 if masked else None
    output, weights = layer(x, context, mask=mask, need_weights=True)
    wanted, wanted_weights = by_definition(layer, x, context, mask)
    assert output.shape == (*lead, query_len, layer.d_out)
    assert weights.shape == (*lead, layer.num_heads, query_len, key_len)
    torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.to_dense(), wanted_weights, rtol=1e-12, atol=1e-12)
    assert torch.equal(output, layer(x, context, mask=mask))


@pytest.mark.parametrize("context", [None, "fused", "separate"])
def test_gradients_against_the_definition_in_float64(context: str | None):
    d_context = (5, 3) if context == "separate" else None
    layer = MultiHeadAttention(6, 4, num_kv_heads=2, d_k=8, d_v=12, d_context=d_context, dtype=torch.float64)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    given_context = {
        None: None,
        "fused": torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True),
        "separate": tuple(torch.randn(2, 7, n, dtype=torch.float64, requires_grad=True) for n in (5, 3)),
    }[context]
    extra = () if context is None else given_context if isinstance(given_context, tuple) else (given_context,)
    mask = torch.rand(2, 4, 5, 5 if context is None else 7) < 0.7
    inputs, seed = (x, *extra, *layer.parameters()), torch.randn(2, 5, 6, dtype=torch.float64)
    got = torch.autograd.grad(layer(x, given_context, mask=mask), inputs, seed)
    wanted = torch.autograd.grad(by_definition(layer, x, given_context, mask)[0], inputs, seed)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_asking_for_the_weights_does_not_change_a_bit(dtype: torch.dtype):
    layer, x = MultiHeadAttention(12, 3, dtype=dtype), torch.randn(2, 40, 12, dtype=dtype)
    for mask in (None, masks.causal(), masks.window(3), torch.rand(2, 3, 40, 40) < 0.7):
        output, weights = layer(x, mask=mask, need_weights=True)
        assert torch.equal(output, layer(x, mask=mask))
        assert weights.dtype == output.dtype == dtype


def test_a_mask_reaches_every_head():
    layer, x = MultiHeadAttention(12, 3), torch.randn(2, 6, 12)
    each = torch.rand(3, 6, 6) < 0.5  # another one for each head
    each |= torch.eye(6, dtype=torch.bool)
    for mask in (each, each[:1], each[0], each.expand(2, 3, 6, 6), masks.dense(each), masks.causal()):
        dense = layer(x, mask=mask, need_weights=True)[1].to_dense()
        allowed = (
            torch.ones(6, 6).tril().bool() if isinstance(mask, type(masks.causal())) else getattr(mask, "tensor", mask)
        )
        assert torch.equal(dense > 0, allowed.expand(2, 3, 6, 6))


def test_one_mask_a_sequence():
    layer, x, mask = MultiHeadAttention(12, 3), torch.randn(2, 6, 12), torch.rand(2, 6, 6) < 0.5
    out = layer(x, mask=mask[:, None])
    for b in range(2):
        torch.testing.assert_close(out[b], layer(x[b], mask=mask[b]), **FLOAT32)


@settings(max_examples=15)
@given(cut=st.integers(1, 7), kv_heads=st.sampled_from([1, 2, 4]))
def test_what_comes_later_does_not_matter_to_the_bit(cut: int, kv_heads: int):
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(12, 4, num_kv_heads=kv_heads), torch.randn(2, 8, 12)
    changed = x.clone()
    changed[:, cut:] = 1e3 * torch.randn(2, 8 - cut, 12)
    before, after = layer(x, mask=masks.causal()), layer(changed, mask=masks.causal())
    assert torch.equal(before[:, :cut], after[:, :cut])
    assert (before[:, cut:] != after[:, cut:]).any(-1).all()


def test_causal_over_a_longer_context_lets_the_last_query_see_every_key():
    layer, x, context = MultiHeadAttention(4, 2), torch.randn(1, 2, 4), torch.randn(1, 5, 4)
    dense = layer(x, context, mask=masks.causal(), need_weights=True)[1].to_dense()
    assert torch.equal(dense[0, 0] > 0, torch.tensor([[True] * 4 + [False], [True] * 5]))


def test_padding_of_a_context_may_hold_nan():
    layer, x, context = MultiHeadAttention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 6, 12)
    context[1, 2:] = torch.nan
    x.requires_grad_()
    out = layer(x, context, mask=masks.padding(torch.tensor([6, 2])))
    torch.testing.assert_close(out[1], layer(x[1], context[1, :2]), **FLOAT32)
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_a_position_that_may_read_nothing_gets_the_bias_of_the_output():
    layer, x = MultiHeadAttention(12, 3), torch.randn(2, 6, 12, requires_grad=True)
    nn.init.normal_(layer.out_proj.bias)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    out = layer(x, mask=mask)
    assert torch.equal(out[:, 2], layer.out_proj.bias.expand(2, 12))
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


@settings(max_examples=15)
@given(order=st.permutations(range(6)))
def test_permuting_the_positions_permutes_the_output(order: list[int]):
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2), torch.randn(3, 6, 8)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], **FLOAT32)
    if order != sorted(order):
        assert (layer(x)[:, order] - layer(x)).abs().max() > 1e-3


def test_grouped_heads_are_those_of_a_full_layer_with_repeated_rows():
    small = MultiHeadAttention(10, 6, num_kv_heads=2, d_k=12, d_v=18)
    full = MultiHeadAttention(10, 6, d_k=12, d_v=18)
    nn.init.normal_(small.in_proj.bias)
    q, k, v = small.in_proj.weight.split([12, 4, 6])
    assert small.in_proj.out_features == 22
    with torch.no_grad():
        for name in ("weight", "bias"):
            q, k, v = getattr(small.in_proj, name).split([12, 4, 6])
            k, v = (t.unflatten(0, (2, -1)).repeat_interleave(3, dim=0).flatten(0, 1) for t in (k, v))
            getattr(full.in_proj, name).copy_(torch.cat([q, k, v]))
    full.out_proj = small.out_proj
    x = torch.randn(2, 5, 10)
    torch.testing.assert_close(small(x, mask=masks.causal()), full(x, mask=masks.causal()), **FLOAT32)


def test_without_a_batch_everything_is_one_axis_less():
    layer, x, context = MultiHeadAttention(12, 4, num_kv_heads=2), torch.randn(5, 12), torch.randn(7, 12)
    mask = torch.rand(4, 5, 7) < 0.7
    output, weights = layer(x, context, mask=mask, need_weights=True)
    batched, batched_weights = layer(x[None], context[None], mask=mask, need_weights=True)
    assert torch.equal(output, batched[0])
    assert torch.equal(output, layer(x, (context, context), mask=mask))
    assert weights.shape == (4, 5, 7)
    for ask in (
        lambda w: w.to_dense(),
        lambda w: w.entropy(),
        lambda w: w.received(),
        lambda w: w.lse,
        lambda w: w.pool(2, 3),
        lambda w: w.topk(2).values,
        lambda w: w @ context,
    ):
        assert torch.equal(ask(weights), ask(batched_weights)[0])
    assert torch.equal(weights[1, 2], batched_weights[0, 1, 2])
    by_key = layer(x, mask=masks.padding(torch.tensor([True, True, False, True, False])), need_weights=True)[1]
    assert not by_key[..., [2, 4]].any()


def test_more_batch_axes_are_as_many_sequences():
    layer, x, context = MultiHeadAttention(12, 3), torch.randn(2, 3, 5, 12), torch.randn(2, 3, 6, 12)
    output, weights = layer(x, context, mask=masks.causal(), need_weights=True)
    flat, flat_weights = layer(x.flatten(0, 1), context.flatten(0, 1), mask=masks.causal(), need_weights=True)
    assert torch.equal(output.flatten(0, 1), flat)
    assert torch.equal(weights.to_dense().flatten(0, 1), flat_weights.to_dense())


def test_inputs_may_have_any_strides_and_are_not_written_to():
    layer, x = MultiHeadAttention(12, 3), torch.randn(5, 12, 2)
    strided = x.permute(2, 0, 1)  # (B, L, d_in)
    before = x.clone()
    torch.testing.assert_close(layer(strided), layer(strided.contiguous()), **FLOAT32)
    one_for_all = torch.randn(5, 12).expand(2, 5, 12)
    torch.testing.assert_close(layer(one_for_all), layer(one_for_all.contiguous()), **FLOAT32)
    assert torch.equal(x, before)


def test_an_empty_batch():
    assert MultiHeadAttention(12, 3)(torch.randn(0, 5, 12)).shape == (0, 5, 12)


def test_dropout_in_training_only():
    layer, x = MultiHeadAttention(12, 3, dropout=0.5), torch.randn(2, 5, 12)
    plain = MultiHeadAttention(12, 3)
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), plain(x))
    assert not torch.equal(layer.train()(x), plain(x))
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x, need_weights=True)[0], first)
    mean = torch.stack([layer(x) for _ in range(400)]).mean(0)
    # 400 draws of deviation about 0.3: 0.02. Without rescaling the mean is half of what it should be.
    assert (mean - plain(x)).abs().max() < 0.1 < plain(x).abs().max() / 3


def test_parameters_begin_as_those_of_torch():
    layer = MultiHeadAttention(64, 4)
    bound = math.sqrt(6 / (64 + 3 * 64))  # Xavier uniform over the matrix of q, k and v together
    assert 0.97 * bound < layer.in_proj.weight.abs().max() <= bound
    theirs = nn.MultiheadAttention(64, 4)
    assert 0.97 < layer.in_proj.weight.std() / theirs.in_proj_weight.std() < 1.03  # 12,288 draws: within 0.6 %
    assert 0.95 < layer.out_proj.weight.std() / theirs.out_proj.weight.std() < 1.05
    assert not layer.in_proj.bias.any()
    assert not layer.out_proj.bias.any()
    torch.manual_seed(3)
    layer.reset_parameters()
    first = copy.deepcopy(layer.state_dict())
    torch.manual_seed(3)
    layer.reset_parameters()
    assert all(torch.equal(first[name], t) for name, t in layer.state_dict().items())


def test_the_state_goes_from_one_layer_to_another():
    arguments = {"num_kv_heads": 1, "d_k": 6, "d_v": 9, "d_out": 5, "d_context": (4, 2)}
    one, other = (MultiHeadAttention(12, 3, **arguments) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x, context = torch.randn(2, 5, 12), (torch.randn(2, 3, 4), torch.randn(2, 3, 2))
    assert torch.equal(one(x, context), other(x, context))
    assert torch.equal(one(x, context), copy.deepcopy(one)(x, context))
    assert sorted(one.state_dict()) == sorted(
        f"{name}_proj.{kind}" for name in ("q", "k", "v", "out") for kind in ("weight", "bias")
    )


def test_autocast():
    layer, x = MultiHeadAttention(12, 3), torch.randn(2, 5, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, mask=masks.causal())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x, mask=masks.causal()), rtol=0, atol=0.03)  # bfloat16 has 8 bits


def test_repr():
    assert "d_in=12, num_heads=3, d_k=12, d_v=12, d_out=12\n" in repr(MultiHeadAttention(12, 3))
    layer = MultiHeadAttention(12, 4, num_kv_heads=2, d_k=8, d_v=4, d_out=3, d_context=5, dropout=0.1)
    assert "d_in=12, num_heads=4, num_kv_heads=2, d_k=8, d_v=4, d_out=3, d_context=(5, 5), dropout=0.1\n" in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"d_in": 0}, ValueError, "d_in must be at least 1, got 0"),
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ({"num_heads": 2.0}, TypeError, "num_heads must be an integer, got float"),
        ({"d_k": 10}, ValueError, "d_k must be a multiple of num_heads=4, got 10; .* the nearest that fits is 8 or 12"),
        ({"d_v": 3}, ValueError, "d_v must be a multiple of num_heads=4, got 3; .* the nearest that fits is 4"),
        ({"d_in": 6}, ValueError, "d_k must be a multiple of num_heads=4, got 6"),
        (
            {"num_kv_heads": 3},
            ValueError,
            "multiple of num_kv_heads, got num_heads=4 and num_kv_heads=3; each key/value",
        ),
        ({"num_kv_heads": 8}, ValueError, "multiple of num_kv_heads, got num_heads=4 and num_kv_heads=8"),
        ({"d_out": -1}, ValueError, "d_out must be at least 1, got -1"),
        ({"d_context": (1, 2, 3)}, ValueError, r"a width or \(key width, value width\), got 3 widths"),
        ({"d_context": 0}, ValueError, "d_context must be at least 1, got 0"),
        ({"dropout": 2}, ValueError, r"dropout must be in \[0, 1\], got 2"),
        ({"dropout": "a"}, TypeError, r"dropout must be a number in \[0, 1\], got str"),
    ],
)
def test_bad_arguments(arguments: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention(**{"d_in": 8, "num_heads": 4, **arguments})


X = torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (([1.0],), {}, TypeError, "x must be a torch.Tensor, got list"),
        ((torch.zeros(8),), {}, ValueError, r"x must have at least 2 axes \(..., length, d_in\), got shape \(8,\)"),
        ((X[..., :7],), {}, ValueError, r"x must have the width d_in=8 in its last axis, got \(2, 3, 7\)$"),
        ((X.mT,), {}, ValueError, r"got \(2, 8, 3\); the width comes last, after batch and length"),
        ((X.double(),), {}, TypeError, "x must have the layer's dtype float32, got float64"),
        ((X.to("meta"),), {}, ValueError, "x must be on the layer's device cpu, got meta; move it with .to"),
        ((X, X[..., :7]), {}, ValueError, r"context must have the width d_in=8 in its last axis, got \(2, 3, 7\)"),
        ((X, (X, X[..., :7])), {}, ValueError, r"context\[1\] must have the width d_in=8 in its last axis"),
        ((X, (X, X, X)), {}, ValueError, r"a pair \(key_input, value_input\), got 3 of them"),
        ((X, (X, X[:, :2])), {}, ValueError, r"the same length S \(axis -2\), got 3 and 2"),
        (
            (X, X[0]),
            {},
            ValueError,
            r"context must have the batch axes of x, \(2,\), got shape \(3, 8\); .*context.expand",
        ),
        ((X, X.half()), {}, TypeError, "context must have the layer's dtype float32, got float16"),
        ((X, 3), {}, TypeError, "context must be a torch.Tensor, got int"),
        (
            (X, masks.causal()),
            {},
            TypeError,
            r"context must be a torch.Tensor or a pair .*, got causal\(\); a mask is passed by its name: mask=",
        ),
        ((X, X[..., 0] > 0), {}, TypeError, "context must be .*, got a boolean tensor; a mask is passed by its name"),
        ((X,), {"mask": torch.zeros(3, 3)}, TypeError, "mask must be boolean .* as bias="),
        ((X,), {"mask": torch.ones(2, 3, 3).bool()}, ValueError, r"one mask a sequence .* heads: mask\[:, None\]"),
        (
            (X,),
            {"mask": torch.ones(2, 3).bool()},
            ValueError,
            r"\(2, 4, 3, 3\), got \(2, 3\); .* masks.padding\(mask\)",
        ),
        ((X,), {"mask": torch.ones(5, 5).bool()}, ValueError, r"must broadcast to .* = \(2, 4, 3, 3\), got \(5, 5\)"),
        ((X,), {"cache": 1}, TypeError, r"cache must be a regard.KVCache .*, got int; .* layer.kv_cache\("),
    ],
)
def test_bad_input(inputs: tuple, options: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention(8, 4)(*inputs, **options)


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        (3, TypeError, "context must be a torch.Tensor, got int"),
        ((X[0], X[0], X[0]), ValueError, "got 3 of them"),
        ((X[0], None), TypeError, r"context\[1\] must be a torch.Tensor, got NoneType"),
    ],
)
def test_bad_context_without_a_batch(context: object, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention(8, 4)(X[0], context)


def test_a_layer_for_a_context_says_that_it_needs_one():
    with pytest.raises(
        ValueError, match=r"context must be given, got None: .* d_context=\(5, 5\), and cannot read x itself"
    ):
        MultiHeadAttention(8, 4, d_context=5)(X)
    with pytest.raises(
        ValueError, match=r"a pair \(key_input, value_input\) of widths d_context=\(5, 6\), got one tensor"
    ):
        MultiHeadAttention(8, 4, d_context=(5, 6))(X, torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"context must have the width d_context=5 in its last axis, got \(2, 3, 8\)"):
        MultiHeadAttention(8, 4, d_context=5)(X, X)


def test_a_mask_that_may_be_one_a_sequence_or_one_a_head_is_refused():
    layer, x, each = MultiHeadAttention(8, 2), torch.randn(2, 3, 8), torch.rand(2, 3, 3) < 0.5
    message = (
        r"mask of shape \(2, 3, 3\) may mean one a sequence or one a head, B = H = 2; "
        r"pass mask\[:, None\] for one a sequence, mask\[None\] for one a head"
    )
    for mask in (each, masks.dense(each), masks.causal() & ~masks.dense(each)):
        with pytest.raises(ValueError, match=message):
            layer(x, mask=mask)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 1, 3\) may mean"):
        layer(x, mask=each[:, :1])


def test_a_mask_that_says_what_it_is_for_is_read_so():
    layer, x, each = MultiHeadAttention(8, 2), torch.randn(2, 3, 8), torch.rand(2, 3, 3) < 0.5
    each |= torch.eye(3, dtype=torch.bool)

    def read(mask: object, x: Tensor = x) -> Tensor:
        return layer(x, mask=mask, need_weights=True)[1].to_dense() > 0

    assert torch.equal(read(each[:, None]), each[:, None].expand(2, 2, 3, 3))
    assert torch.equal(read(each[None]), each[None].expand(2, 2, 3, 3))
    assert torch.equal(read(masks.dense(each[None])), each[None].expand(2, 2, 3, 3))
    assert torch.equal(read(each, x[:1]), each[None])  # one sequence: no doubt
    assert torch.equal(read(each, x[0]), each)
    square = torch.eye(2, dtype=torch.bool)  # two axes are queries and keys, however many sequences and heads
    assert torch.equal(read(square, x[:, :2]), square.expand(2, 2, 2, 2))


def test_sizes_may_be_integers_of_numpy():
    np = pytest.importorskip("numpy")
    layer = MultiHeadAttention(np.int64(16), np.int32(4), num_kv_heads=np.uint8(2), d_context=(np.int64(5), 6))
    sizes = (layer.d_in, layer.num_heads, layer.num_kv_heads, layer.d_k, *layer.d_context)
    assert sizes == (16, 4, 2, 16, 5, 6)
    assert {type(size) for size in sizes} == {int}
    with pytest.raises(TypeError, match="d_in must be an integer, got bool"):
        MultiHeadAttention(np.bool_(True), 1)
    with pytest.raises(TypeError, match="d_in must be an integer, got float64"):
        MultiHeadAttention(np.float64(16), 4)
    with pytest.raises(TypeError, match="d_in must be an integer, got Tensor"):
        MultiHeadAttention(torch.tensor(True), 1)
    with pytest.raises(ValueError, match=r"d_in must be at least 1, got 0$"):
        MultiHeadAttention(np.int64(0), 4)
