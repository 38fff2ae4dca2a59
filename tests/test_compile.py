"""torch.compile: one graph, and the numbers that eager gives."""

from __future__ import annotations

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
from tests.compiling import BATCH, IDS, LENGTH, MASKS, NEAR, STATIC, fresh, inputs, layer, qkv, same, whole
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import regard
from regard import masks

__all__ = ["fresh"]


@pytest.mark.parametrize("name", MASKS)
def test_a_layer_is_one_graph_with_any_mask(name):
    attend = layer()
    same(lambda x: attend(x, mask=MASKS[name]), inputs())


@pytest.mark.parametrize("name", STATIC)
def test_batch_and_length_are_free(name):
    attend, counter = layer(), CompileCounterWithBackend("aot_eager")
    compiled = whole(lambda x: attend(x, mask=MASKS[name]), backend=counter, dynamic=True)
    compiled(inputs(4, 12))
    before = counter.frame_count
    for batch, length in ((2, 10), (3, 17), (5, 33)):
        x = inputs(batch, length)
        got, want = compiled(x), attend(x, mask=MASKS[name])
        torch.testing.assert_close(got, want, **NEAR)
        torch.testing.assert_close(*(torch.autograd.grad(t.square().sum(), x)[0] for t in (got, want)), **NEAR)
    assert counter.frame_count == before > 0


def test_a_mask_is_an_input_like_another():
    attend = layer()
    compiled = whole(lambda x, mask: attend(x, mask=mask))
    x = inputs()
    for name in ("lengths", "causal", "documents", "lengths"):
        torch.testing.assert_close(compiled(x, MASKS[name]), attend(x, mask=MASKS[name]), **NEAR)
    other = masks.padding(torch.tensor([1, 7])) & masks.causal()  # of the form of "lengths", with other lengths
    torch.testing.assert_close(compiled(x, other), attend(x, mask=other), **NEAR)


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: masks.causal() & masks.window(4),
        lambda ids: masks.causal(offset=-1) | masks.prefix(1) & masks.band(1, 1),
        lambda ids: masks.documents(ids),
        lambda ids: masks.padding(ids < 3),
        lambda ids: masks.dense(ids[:, None] >= ids),
        lambda ids: masks.where(lambda b, h, q, kv: ids[q] >= ids[kv]),
    ],
    ids=["static", "composed", "documents", "valid", "dense", "where"],
)
def test_a_mask_may_be_made_in_the_graph(make):
    attend = layer()
    same(lambda x, ids: attend(x, mask=make(ids)), inputs(), IDS)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_lengths_may_be_made_in_the_graph(impl):
    def attend(q, k, v, lengths):
        return regard.attention(q, k, v, masks.padding(lengths), impl=impl)[0]

    same(attend, *qkv(), torch.tensor([3, 12]))


def test_lengths_made_in_the_graph_are_checked_when_it_runs():
    q, k, v = qkv()
    attend = whole(lambda lengths: regard.attention(q, k, v, masks.padding(lengths))[0])
    with pytest.raises(ValueError, match=r"padding\(lengths\): a length must be at least 0, got -1"):
        attend(torch.tensor([-1, 5]))
    with pytest.raises(ValueError, match=r"padding\(lengths\): a length of 13 exceeds the key length S=12"):
        attend(torch.tensor([13, 5]))


def test_one_sequence_without_a_batch():
    attend = layer()
    same(lambda x: attend(x[0], mask=masks.causal()), inputs())


def test_self_attention_and_context():
    one, attend = regard.SelfAttention(16, 8), layer(d_context=24)
    same(lambda x: one(x, mask=masks.causal()), inputs())
    same(lambda x: one(x[0], mask=masks.causal()), inputs())
    same(lambda x, c: attend(x, c), inputs(), torch.randn(BATCH, 7, 24, requires_grad=True))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = regard.PositionalEncoding(16, 64)
        self.norm, self.attend = nn.LayerNorm(16), layer(dropout=0.2)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.positions(x)
        x = x + self.attend(self.norm(x), mask=masks.causal())
        return x + self.mlp(x)


@pytest.mark.slow
@torch._inductor.config.patch(fx_graph_cache=False)  # a graph of an earlier run tells nothing of this code
@torch._functorch.config.patch(enable_autograd_cache=False)
def test_inductor_trains_a_model():
    model = Block()
    compiled, x = torch.compile(model, fullgraph=True), inputs()
    model.eval()
    torch.testing.assert_close(compiled(x), model(x), **NEAR)
    compiled(x).square().sum().backward()
    got = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for a, p in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)  # sums over 20 positions in another order
    model.train()
    torch.manual_seed(0)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(0)
    assert torch.equal(compiled(x), first)
    assert not torch.equal(first, second)


# attention() and its options.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": -0.3},
        {"softcap": 3},
        {"dropout": 0.4},
        {"impl": "reference"},
        {"impl": "reference", "softcap": 2.0, "scale": 0.2},
    ],
    ids=str,
)
def test_options(options):
    same(lambda q, k, v: regard.attention(q, k, v, masks.causal(), **options)[0], *qkv())


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_bias_and_sinks_have_gradients(impl, dynamic):
    bias, sinks = torch.randn(4, 1, 12, requires_grad=True), torch.randn(4, requires_grad=True)

    def attend(q, k, v, bias, sinks):
        return regard.attention(q, k, v, masks.window(5), bias=bias, sinks=sinks, impl=impl)[0]

    same(attend, *qkv(), bias, sinks, dynamic=dynamic)


def test_a_bias_of_fixed_size_beside_a_free_length():
    q, k, v = qkv()
    torch._dynamo.maybe_mark_dynamic(q, 1)
    torch._dynamo.maybe_mark_dynamic(q, 2)
    same(lambda q, k, v, b: regard.attention(q, k, v, bias=b)[0], q, k, v, torch.randn(4, LENGTH, 12))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3, 4)], ids=["(L, D)", "(N, L, D)", "(2, 3, H, L, D)"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_any_number_of_axes(lead, dynamic):
    q, k, v = (torch.randn(*lead, 6, 8, requires_grad=True) for _ in range(3))
    allowed = torch.rand(*lead, 6, 6) > 0.3
    bias = torch.randn(*lead, 6, 6, requires_grad=True)
    rule = masks.where(lambda b, h, q, kv: (b + h + q - kv) % 3 != 0)

    def attend(q, k, v, bias):
        return regard.attention(q, k, v, rule & masks.dense(allowed), bias=bias)[0]

    same(attend, q, k, v, bias, dynamic=dynamic)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_gives_the_same_bits(dtype):
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in qkv())
    same(lambda q, k, v: regard.attention(q, k, v, masks.causal())[0], q, k, v, tolerance={"rtol": 0, "atol": 0})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(mode):
    attend, x = layer().eval(), inputs()
    with mode():
        got = whole(lambda x: attend(x, mask=masks.causal()))(x)
        assert not got.requires_grad
        torch.testing.assert_close(got, attend(x, mask=masks.causal()), **NEAR)


def test_keys_that_nobody_may_read_may_hold_anything():
    q, k, v = qkv()
    with torch.no_grad():
        k[:, :, 9:], v[1, :, 4:9] = torch.nan, torch.inf
    valid = torch.arange(12) < torch.tensor([[9], [4]])
    for impl in ("auto", "reference"):
        same(lambda q, k, v: regard.attention(q, k, v, masks.padding(valid), impl=impl)[0], q, k, v)  # noqa: B023


def test_a_length_at_which_masks_are_cut_into_tiles():
    q, k, v = (torch.randn(1, 2, 1100, 16, requires_grad=True) for _ in range(3))
    mask = masks.causal() & masks.window(100) | masks.prefix(3)
    documents = masks.causal() & masks.documents(torch.arange(1100) // 300)
    for given in (mask, documents):
        same(lambda q, k, v: regard.attention(q, k, v, given)[0], q, k, v)  # noqa: B023


def test_dropout_is_drawn_at_each_run_and_decided_by_the_seed():
    attend = whole(lambda q, k, v: regard.attention(q, k, v, dropout=0.5)[0])
    given = qkv()
    torch.manual_seed(1)
    first, second = attend(*given), attend(*given)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    again = attend(*given)
    assert torch.equal(again, first)
    torch.manual_seed(1)
    eager = regard.attention(*given, dropout=0.5)[0]
    assert torch.equal(eager, first)
    # Both passes drop the same weights: the gradient is that of this output and of no other.
    for a, b in zip(*(torch.autograd.grad(t.sum(), given) for t in (first, eager)), strict=True):
        torch.testing.assert_close(a, b, **NEAR)


def test_second_derivatives():
    q, k, v = (t.detach().double().requires_grad_() for t in qkv())

    def second(impl):
        out = whole(lambda q: regard.attention(q, k, v, masks.causal(), impl=impl)[0], backend="eager")(q)
        (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q)[0]

    out = regard.attention(q, k, v, masks.causal(), impl="reference")[0]
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    (want,) = torch.autograd.grad(first.square().sum(), q)
    torch.testing.assert_close(second("reference"), want)
    with pytest.raises(RuntimeError, match=r'second derivative use impl="reference"'):
        second("auto")


# Errors.


def test_what_does_not_fit_is_said_in_the_words_of_eager():
    q, k, v = qkv()
    attend = torch.compile(lambda **options: regard.attention(q, k, v, **options)[0], backend="aot_eager")
    with pytest.raises(ValueError, match=r"bias \(added to the scores\) must broadcast to \(..., H, L, S\)"):
        attend(bias=torch.randn(3, 1, 1))
    with pytest.raises(TypeError, match=r"bias must be float32 like query, or float32, got float64"):
        attend(bias=torch.randn(4, 1, 1).double())
    with pytest.raises(TypeError, match=r"mask must be boolean .*, got float32"):
        attend(mask=torch.zeros(LENGTH, 12))
    with pytest.raises(ValueError, match=r"sinks must have shape \(H,\) = \(4,\)"):
        attend(sinks=torch.zeros(3))


def test_what_depends_on_numbers_is_said_when_the_graph_runs():
    q, k, v = qkv()
    attend = whole(lambda mask: regard.attention(q, k, v, mask)[0])
    with pytest.raises(ValueError, match=r"padding\(lengths\): a length of 13 exceeds the key length S=12"):
        attend(masks.padding(torch.tensor([13, 2])))
    with pytest.raises(
        ValueError, match=r"documents\(ids\): expected shape \(B, S\) = \(2, 12\) or \(S,\), got \(5,\)"
    ):
        attend(masks.documents(torch.arange(5)))
    with pytest.raises(ValueError, match=r'impl="fused": softcap has no fused op'):
        whole(lambda: regard.attention(q, k, v, softcap=2.0, impl="fused")[0])()
