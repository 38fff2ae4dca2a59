"""What once went wrong and is not to go wrong again, each by its smallest case."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch

import regard
from regard import masks, reference


def draw(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


MIDDLE_ROW_EMPTY = torch.tensor([[True, True, True], [False, False, False], [True, True, True]])


def test_a_negative_scale_does_not_overflow_half_precision():
    q = torch.full((1, 1, 2, 4), 300.0).half()
    assert (regard.attention(q, q, q, scale=-400.0)[0] == 300).all()


@pytest.mark.parametrize("softcap", [None, 20.0])
def test_autocast_rounds_no_product(softcap):
    q, k, v = (3 * draw(1, 4, 100, 32, seed=i) for i in range(3))
    want, weights = regard.attention(q, k, v, masks.causal(), softcap=softcap)
    with torch.autocast("cpu", torch.bfloat16):
        output, inside = regard.attention(q, k, v, masks.causal(), softcap=softcap)
        asked = [weights.to_dense(), weights.received(), weights.mT @ v, weights.topk(3).values, weights.pool(10, 10)]
        rows = inside.to_dense().sum(-1)
    assert torch.equal(output, want)
    for got, expected in zip(
        asked,
        [weights.to_dense(), weights.received(), weights.mT @ v, weights.topk(3).values, weights.pool(10, 10)],
        strict=True,
    ):
        assert torch.equal(got, expected)
    assert (rows - 1).abs().max() < 1e-4


def test_weights_made_without_grad_carry_none():
    q, k, v = (draw(1, 1, 4, 3, seed=i).requires_grad_() for i in range(3))
    with torch.no_grad():
        weights = regard.attention(q, k, v)[1]
    assert not weights.to_dense().requires_grad
    assert not weights.entropy().requires_grad


def test_with_sinks_an_empty_row_passes_no_gradient():
    given = [draw(1, 2, 3, 4, seed=i).requires_grad_() for i in range(3)]
    sinks = torch.zeros(2, requires_grad=True)
    output, _ = regard.attention(*given, MIDDLE_ROW_EMPTY, sinks=sinks)
    normed = output / output.norm(dim=-1, keepdim=True)  # 0 / 0 in the row that reads nothing
    gradients = torch.autograd.grad(normed[:, :, [0, 2]].sum(), [*given, sinks])
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][:, :, 1] == 0).all()


def test_the_definition_passes_no_gradient_through_an_empty_row():
    given = [draw(1, 2, 3, 4, seed=i).requires_grad_() for i in range(3)]
    output = reference.attention(*given, MIDDLE_ROW_EMPTY).output
    normed = output / output.norm(dim=-1, keepdim=True)
    assert all(g.isfinite().all() for g in torch.autograd.grad(normed[:, :, [0, 2]].sum(), given))


def test_with_sinks_what_an_empty_row_holds_reaches_nothing():
    q, k = draw(1, 2, 3, 4), draw(1, 2, 3, 4, seed=1)
    q[:, :, 1] = math.nan
    weights = regard.attention(q, k, k, MIDDLE_ROW_EMPTY, sinks=torch.zeros(2))[1]
    assert (weights.entropy()[:, :, 1] == 0).all()
    assert (weights.mT @ q).isfinite().all()


@pytest.mark.parametrize("kind", ["dense", "documents", "padding"])
def test_a_mask_that_is_written_to_is_noticed(kind):
    q, k, v = (draw(1, 1, 4, 3, seed=i).requires_grad_() for i in range(3))
    tensor = torch.ones(4, 4, dtype=torch.bool).tril() if kind == "dense" else torch.tensor([0, 0, 1, 1])
    mask = {"dense": masks.dense, "documents": masks.documents, "padding": lambda t: masks.padding(t.bool())}[kind](
        tensor
    )
    output, weights = regard.attention(q, k, v, mask)
    if kind == "padding":  # lowered to a copy: writing changes nothing
        before = weights.to_dense()
        tensor.fill_(1)
        assert torch.equal(weights.to_dense(), before)
        return
    tensor.fill_(1)
    with pytest.raises(RuntimeError, match=r"mask was written to after regard.attention\(\).*pass mask.clone\(\)"):
        weights.to_dense()
    with pytest.raises(RuntimeError, match=r"mask was written to between regard.attention\(\) and its backward pass"):
        output.sum().backward()


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0, 1e6])
def test_the_entropy_of_large_scores_lies_between_0_and_log_s(size):
    q, k = size * draw(1, 2, 64, 16), size * draw(1, 2, 64, 16, seed=1)
    entropy = regard.attention(q, k, k)[1].entropy()
    scores = (q.double() / 4) @ k.double().mT
    want = torch.special.entr(torch.softmax(scores, -1)).sum(-1)
    assert (entropy >= 0).all()
    assert (entropy <= math.log(64)).all()
    # A score is a sum of 16 products, off by some roundings of the largest; the entropy moves by at most 2 log S as
    # much.
    off = 16 * torch.finfo(torch.float32).eps * scores.abs().amax(-1)
    top = scores.topk(2, dim=-1).values
    settled = top[..., 0] - top[..., 1] > 30 + 2 * off  # one key has it all, however the scores are rounded
    assert settled.any() == (size > 1)
    assert (entropy[settled] < 1e-6).all()
    known = off < 1e-3
    assert known.all() == (size == 1)
    assert ((entropy - want).abs() <= 2 * math.log(64) * off)[known].all()


def test_integers_are_multiplied_as_positions_and_not_as_half_precision():
    q = torch.zeros(1, 1, 1, 8, dtype=torch.float16)
    k = torch.zeros(1, 1, 70000, 8, dtype=torch.float16)
    mean = regard.attention(q, k, k)[1] @ torch.arange(70000)
    # Sums of 70,000 equal float32 weights: a relative 1e-4 is wide for any order of summation.
    torch.testing.assert_close(mean, torch.full((1, 1, 1), 34999.5), rtol=1e-4, atol=0.0)
    with pytest.raises(TypeError, match=r"weights @ x: x must be real, got complex64"):
        regard.attention(q, k, k)[1] @ torch.zeros(70000, dtype=torch.complex64)


def test_several_batch_axes_are_not_gathered_entry_by_entry():
    q, k = draw(2, 2, 3, 16, 4), draw(2, 2, 3, 16, 4, seed=1)
    weights = regard.attention(q, k, k, masks.causal())[1]
    flat = regard.attention(q.flatten(0, 1), k.flatten(0, 1), k.flatten(0, 1), masks.causal())[1].to_dense()
    dense = flat.view(2, 2, 3, 16, 16)
    assert torch.equal(weights.to_dense(), dense)
    for index in [
        (1,),
        (0, 1),
        (slice(None), 0, 2),
        (..., 5, slice(2, 9)),
        (None, 1, slice(0, 1), 0, 3),
        (1, 0, [0, 2]),
    ]:
        torch.testing.assert_close(weights[index], dense[index], rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"dropout": 0.5}], ids=str)
@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 2, 0, 4), (2, 3, 2, 0, 4), (2, 0, 2, 3, 4)], ids=str)
def test_an_axis_of_size_zero(sizes, options):
    q = torch.zeros(sizes, requires_grad=True)
    output, weights = regard.attention(q, q, q, masks.causal(), **options)
    assert output.shape == q.shape
    assert weights.to_dense().shape == (*sizes[:-1], sizes[-2])
    output.sum().backward()
    assert q.grad.shape == q.shape


def test_no_keys_at_all():
    q, k = torch.ones(2, 2, 2, 3, 4, requires_grad=True), torch.ones(2, 2, 1, 0, 4)
    output, weights = regard.attention(q, k, k)
    assert (output == 0).all()
    assert (weights.lse == -math.inf).all()
    output.sum().backward()
    assert (q.grad == 0).all()


def test_no_heads_is_an_error():
    q = torch.zeros(1, 0, 3, 4)
    with pytest.raises(ValueError, match=r"query heads H \(axis -3\) must be a multiple .* got H=0 and Hkv=0"):
        regard.attention(q, q, q)


@pytest.mark.parametrize("use", [lambda m: m and m, lambda m: not m, lambda m: bool(m)], ids=["and", "not", "bool"])
def test_a_mask_is_neither_true_nor_false(use):
    with pytest.raises(TypeError, match=r"neither true nor false; combine masks with &, \| and ~"):
        use(masks.causal())


def test_a_tensor_on_the_left_of_a_mask_is_named():
    with pytest.raises(TypeError, match=r"mask & other: .* wrap a boolean tensor in masks.dense\(tensor\)"):
        torch.ones(3, 3, dtype=torch.bool) & masks.causal()


def test_weights_can_be_copied_and_saved():
    q = draw(1, 2, 5, 4)
    weights = regard.attention(q, q, q, masks.causal() & masks.window(2))[1]
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(weights), torch.load(buffer, weights_only=False)):
        assert torch.equal(other.to_dense(), weights.to_dense())


def test_grouped_weights_of_one_sequence_take_the_heads_of_key_and_value():
    torch.manual_seed(0)
    layer = regard.MultiHeadAttention(8, 4, num_kv_heads=2)
    weights = layer(torch.rand(5, 8), need_weights=True)[1]
    x = torch.rand(2, 5, 3)
    torch.testing.assert_close(weights @ x, weights.to_dense() @ x.repeat_interleave(2, 0))


def test_a_mask_made_for_other_sequences_is_refused():
    with pytest.raises(ValueError, match=r"padding\(lengths\): one length a sequence, expected \(5,\), got \(2,\)"):
        masks.padding(torch.tensor([1, 2])).to_dense(2, 3, batch=5)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda b, h, q, kv: torch.ones(7, dtype=torch.bool), r"must return a shape that broadcasts to \(1, 1, 3, 3\)"),
        (lambda b, h, q, kv: (q >= kv)[None], r"must return a shape that broadcasts to \(1, 1, 3, 3\)"),
    ],
)
def test_a_rule_of_the_wrong_shape_is_named(rule, message):
    with pytest.raises(ValueError, match=message):
        masks.where(rule).to_dense(3)


def test_positions_beyond_any_sequence_are_refused():
    with pytest.raises(ValueError, match="window: the number of keys must be at most 1099511627776, got"):
        masks.window(10**30)


def test_a_batch_asked_for_by_indices_is_not_gathered_entry_by_entry(monkeypatch):
    q = draw(4, 2, 16, 4)
    weights = regard.attention(q, q, q, masks.causal())[1]
    monkeypatch.setattr("regard.indexing._pointwise", None)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(weights[some], weights.to_dense()[some], rtol=0.0, atol=1e-7)
    torch.testing.assert_close(weights[None, some, 1, 3], weights.to_dense()[None, some, 1, 3], rtol=0.0, atol=1e-7)
