"""F.scaled_dot_product_attention and regard.attention under a watch, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Attention, Tower, by_definition, same
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import regard
from regard import masks


def qkv(*lead: int, query_len: int = 5, key_len: int = 7, kv_heads: int | None = None, dtype=torch.float64):
    kv = lead if kv_heads is None else (*lead[:-1], kv_heads)
    q = torch.randn(*lead, query_len, 8, dtype=dtype)
    return q, torch.randn(*kv, key_len, 8, dtype=dtype), torch.randn(*kv, key_len, 6, dtype=dtype)


def watched(*args, **options) -> regard.watch.Record:
    plain = F.scaled_dot_product_attention(*args, **options)
    with regard.watch() as seen:
        output = F.scaled_dot_product_attention(*args, **options)
    assert torch.equal(output, plain)
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("lead", [(), (3,), (2, 4), (2, 3, 4)])
def test_plain(lead):
    q, k, v = qkv(*lead)
    record = watched(q, k, v)
    assert record.shape == record.weights.shape == (*lead, 5, 7)
    assert record.function == "F.scaled_dot_product_attention"
    assert record.name == "(no module)"
    same(record.weights, by_definition(q, k))


def test_causal_is_aligned_at_the_top_left():
    q, k, v = qkv(2, 4)
    same(watched(q, k, v, is_causal=True).weights, by_definition(q, k, torch.ones(5, 7).tril().bool()))


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 1, 5, 7), (1, 4, 5, 7), (2, 1, 1, 7)])
def test_boolean_mask(shape):
    q, k, v = qkv(2, 4)
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    same(watched(q, k, v, mask).weights, by_definition(q, k, mask))


def test_float_mask_forbids_with_minus_infinity_or_half_of_the_least_number_and_adds_the_rest():
    q, k, v = qkv(2, 4)
    bias = torch.randn(2, 1, 5, 7, dtype=torch.float64)
    forbidden = torch.rand(2, 1, 5, 7) < 0.3
    forbidden[..., 0] = False
    for low in (-torch.inf, torch.finfo(torch.float64).min, torch.finfo(torch.float64).min / 2):
        same(watched(q, k, v, bias.masked_fill(forbidden, low)).weights, by_definition(q, k, ~forbidden, bias=bias))
    # Far less than any score, and yet a number that is added.
    same(
        watched(q, k, v, bias.masked_fill(forbidden, -9.0)).weights,
        by_definition(q, k, bias=bias.masked_fill(forbidden, -9.0)),
    )


def test_a_float_mask_that_only_forbids_leaves_no_bias():
    q, k, v = qkv(2, 4, query_len=7)
    record = watched(
        q, k, v, torch.zeros(7, 7, dtype=torch.float64).masked_fill(~torch.ones(7, 7).tril().bool(), -torch.inf)
    )
    same(record.weights, by_definition(q, k, torch.ones(7, 7).tril().bool()))
    assert "dense" in repr(record.weights.mask)
    assert "bias" not in repr(record.weights)


@pytest.mark.parametrize("share", [1, 0.5])
def test_a_row_that_may_read_nothing_reads_nothing(share):
    q, k, v = qkv(2, 4)
    mask = torch.zeros(5, 7, dtype=torch.float64)
    mask[2] = torch.finfo(torch.float64).min * share
    weights = watched(q, k, v, mask).weights
    assert not weights[:, :, 2].any()
    same(weights, by_definition(q, k, mask > -1))


def test_scale():
    q, k, v = qkv(2, 4)
    same(watched(q, k, v, scale=0.7).weights, by_definition(q, k, scale=0.7))


@pytest.mark.parametrize("lead", [(4,), (2, 4), (2, 3, 4)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads(lead, kv_heads):
    q, k, v = qkv(*lead, kv_heads=kv_heads)
    record = watched(q, k, v, enable_gqa=True, is_causal=True)
    expected = by_definition(q, k.repeat_interleave(4 // kv_heads, -3), torch.ones(5, 7).tril().bool())
    assert record.shape == expected.shape
    same(record.weights, expected)


def test_axes_that_broadcast():
    q, _, _ = qkv(1, 4)
    _, k2, v2 = qkv(3, 1)
    same(watched(q, k2, v2).weights, by_definition(q.expand(3, 4, 5, 8), k2.expand(3, 4, 7, 8)))
    one, k4, v4 = qkv(3, 1)[0], *qkv(3, 4)[1:]
    same(watched(one, k4, v4).weights, by_definition(one.expand(3, 4, 5, 8), k4))
    _, k3, v3 = qkv(4)
    record = watched(q.expand(3, 4, 5, 8), k3, v3)
    assert record.shape == (3, 4, 5, 7)
    same(record.weights, by_definition(q.expand(3, 4, 5, 8), k3.expand(3, 4, 7, 8)))


def test_the_operator_itself():
    q, k, v = qkv(2, 4)
    with regard.watch() as seen:
        torch.ops.aten.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.ops.aten.scaled_dot_product_attention.default(q, k, v)
    same(seen[0].weights, by_definition(q, k, torch.ones(5, 7).tril().bool()))
    same(seen[1].weights, by_definition(q, k))


def test_dropout_is_after_the_weights():
    q, k, v = qkv(2, 4)
    with regard.watch() as seen:
        F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    same(seen[0].weights, by_definition(q, k))


def test_what_torch_refuses_is_no_record():
    q, k, v = qkv(2, 4)
    with regard.watch() as seen:
        with pytest.raises(RuntimeError):
            F.scaled_dot_product_attention(q, k, v, torch.ones(2, 2, dtype=torch.bool))
        F.scaled_dot_product_attention(q, k, v)
    assert len(seen) == 1


def test_a_mask_is_converted_once_for_all_layers_and_only_when_asked(monkeypatch):
    from regard.watch import held

    made = []
    split = held.split
    monkeypatch.setattr(held, "split", lambda *args: made.append(1) or split(*args))
    model, x = Tower(3).double(), torch.randn(2, 6, 16, dtype=torch.float64)
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf)
    with regard.watch(model) as seen:
        for layer in model.layers:
            layer(x, attn_mask=mask[:, :, :, :6])  # a view of its own for each layer
    assert made == []
    for record, layer in zip(seen, model.layers, strict=True):
        same(record.weights, by_definition(*layer.projected(x)[:2], torch.ones(6, 6).tril().bool()))
    assert made == [1]
    assert len({record.weights.mask.tensors()[0].data_ptr() for record in seen}) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_whose_weights_cannot_be_had_say_so():
    q = torch.randn(3, 2, 4, 8)
    nested = torch.nested.nested_tensor([torch.randn(3, 2, 8), torch.randn(5, 2, 8)], layout=torch.jagged)
    with regard.watch() as seen:
        torch.vmap(lambda t: F.scaled_dot_product_attention(t, t, t))(q)
        F.scaled_dot_product_attention(*[q.to("meta")] * 3)
        F.scaled_dot_product_attention(*[nested.transpose(1, 2)] * 3)
    with pytest.raises(
        RuntimeError, match=r"F.scaled_dot_product_attention in \(no module\): no weights: .*torch.func"
    ):
        _ = seen[0].weights
    with pytest.raises(RuntimeError, match="holds no numbers"):
        _ = seen[1].weights
    with pytest.raises(RuntimeError, match="query or key is a nested tensor; pad it"):
        _ = seen[2].weights
    assert "(no module)" in repr(seen)


def test_regard_attention_gives_the_weights_that_it_returned():
    q, k, v = qkv(2, 4, kv_heads=2)
    with regard.watch() as seen:
        _, returned = regard.attention(q, k, v, masks.causal() & masks.window(3), softcap=2.0)
    assert seen[0].function == "regard.attention"
    assert seen[0].mask == "causal() & window(3) & softcap 2"
    assert seen[0].weights.lse.data_ptr() == returned.lse.data_ptr()
    same(seen[0].weights, returned.to_dense())
    mask = torch.ones(5, 7).tril(2).bool() & ~torch.ones(5, 7).tril(-1).bool()
    same(seen[0].weights, by_definition(q, k, mask, softcap=2.0))


def test_what_regard_compiles_itself_is_compiled():
    stances = []

    def rule(b, h, q, kv):
        stances.append(torch._dynamo.eval_frame._stance.stance)
        return kv <= q

    q, k, v = qkv(2, 4)
    with regard.watch():
        regard.attention(q, k, v, masks.where(rule))
    assert set(stances) == {"default"}


def test_regard_modules_have_names():
    model = torch.nn.Sequential(regard.MultiHeadAttention(16, 4), regard.SelfAttention(16)).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    with regard.watch(model) as seen:
        model(x)
    assert seen.names == ["0", "1"]
    assert [record.module_type for record in seen] == ["MultiHeadAttention", "SelfAttention"]
    _, weights = model[0](x, need_weights=True)
    same(seen[0].weights, weights.to_dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_inside_of_the_operator(dtype):
    layer, x = Attention(), torch.randn(2, 6, 16)
    with regard.watch() as seen, torch.autocast("cpu", dtype):
        q, k, v = qkv(2, 4, dtype=torch.float32)
        F.scaled_dot_product_attention(q, k, v)
        layer(x)
        F.scaled_dot_product_attention(*(t.double() for t in (q, k, v)))
    assert [record.dtype for record in seen] == [dtype, dtype, torch.float64]
    assert seen[0].weights.dtype == dtype
    same(seen[0].weights, by_definition(q.to(dtype), k.to(dtype)), rtol=0, atol=2 * torch.finfo(dtype).eps)
    same(seen[2].weights, by_definition(q, k))


@pytest.mark.parametrize("sizes", [(5, 7), (6, 6), (7, 5)])
@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
def test_causal_biases_of_torch_are_rules(sizes):
    q, k, v = qkv(2, 4, query_len=sizes[0], key_len=sizes[1])
    upper, lower = (torch.ones(sizes).tril(offset).bool() for offset in (0, sizes[1] - sizes[0]))
    record = watched(q, k, v, causal_upper_left(*sizes))
    assert record.mask == "causal(offset=0)"
    same(record.weights, by_definition(q, k, upper))
    with regard.watch() as seen:
        F.scaled_dot_product_attention(q, k, v, causal_lower_right(*sizes))
    same(seen[0].weights, by_definition(q, k, lower))


class Negated(torch.Tensor):
    """A mask whose True forbids."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.scaled_dot_product_attention:
                args = (*args[:3], ~args[3].as_subclass(torch.Tensor))
            return func(*args, **(kwargs or {}))


class Named(torch.Tensor):
    """A tensor like all others."""


def test_a_mask_that_decides_itself_how_it_masks_is_refused_by_name():
    q, k, v = qkv(2, 4)
    mask = torch.ones(5, 7).triu(1).bool()
    with regard.watch() as seen:
        F.scaled_dot_product_attention(q, k, v, mask.as_subclass(Negated))
        F.scaled_dot_product_attention(q, k, v, (~mask).as_subclass(Named))
        F.scaled_dot_product_attention(q, k, v, torch.nn.Parameter(torch.zeros(5, 7, dtype=torch.float64)))
    with pytest.raises(RuntimeError, match="its mask is a Negated, a tensor that decides itself how it masks"):
        _ = seen[0].weights
    same(seen[1].weights, by_definition(q, k, ~mask))
    same(seen[2].weights, by_definition(q, k))


def test_a_mask_inside_of_torch_func_does_not_stop_the_model():
    q, k, v = qkv(2, 4)
    mask = torch.randn(3, 5, 7, dtype=torch.float64)

    def total(m, value=v):
        return F.scaled_dot_product_attention(q, k, value, m).square().sum()

    functions = [torch.func.grad(total), torch.func.grad(lambda value: total(mask[0], value))]
    given = [mask[0], v]
    plain = [f(t) for f, t in zip(functions, given, strict=True)], torch.vmap(total)(mask)
    with regard.watch() as seen:
        found = [f(t) for f, t in zip(functions, given, strict=True)], torch.vmap(total)(mask)
        torch.vmap(lambda value: total(mask[0], value))(torch.stack([v, v]))
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    for record in seen[:3]:
        with pytest.raises(RuntimeError, match=r"ran inside of torch\.func"):
            _ = record.weights
    same(seen[3].weights, by_definition(q, k, bias=mask[0]))


@pytest.mark.parametrize("causal", [True, False])
def test_operators_under_it_as_a_decomposed_graph_calls_them(causal):
    q, k, v = qkv(2, 4)
    v = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    bias = None if causal else torch.randn(5, 7, dtype=torch.float64)
    expected = by_definition(q, k, torch.ones(5, 7).tril().bool() if causal else None, bias=bias, scale=0.3)
    aten = torch.ops.aten
    with regard.watch() as seen:
        aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=bias, scale=0.3)
        aten._scaled_dot_product_attention_math.default(q, k, v, bias, 0.0, causal, scale=0.3)
    assert seen[0].function == "aten._scaled_dot_product_flash_attention_for_cpu"
    for record in seen:
        same(record.weights, expected)
    assert len(seen) == 2


def test_a_stance_that_was_set_since_stays():
    found = []

    def rule(b, h, q, kv):
        found.append(torch._dynamo.eval_frame._stance.stance)
        return kv <= q

    q, k, v = qkv(2, 4)
    with regard.watch(), torch.compiler.set_stance("fail_on_recompile"):
        regard.attention(q, k, v, masks.where(rule))
    assert set(found) == {"fail_on_recompile"}
