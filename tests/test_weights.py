"""AttentionWeights: the operator, against the dense matrix of the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from tests import operator_properties, properties
from tests.strategies import Case, cases, examples

import regard
from regard import masks

ALL_DTYPES = (torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16)


@examples(40)
@given(cases(dtypes=ALL_DTYPES))
def test_the_matrix_is_that_of_the_definition(case: Case):
    operator_properties.weights_match_the_definition(regard.attention, case)


@examples(30)
@given(cases(dtypes=ALL_DTYPES))
def test_products_are_those_of_the_definition(case: Case):
    operator_properties.products_match_the_definition(regard.attention, case)


# Each is asked of the weights, and of the dense matrix of the definition.
QUESTIONS = {
    "weights @ x": lambda w, x: w @ x,
    "to_dense": lambda w, x: w[...] * x.mT,
    "a row": lambda w, x: w[..., -1, :] * x[:, 0],
    "entries": lambda w, x: w[..., [0, -1, 0], [-1, 0, 0]],
    "a column": lambda w, x: w[..., 0],
}


@pytest.mark.parametrize("question", QUESTIONS)
@examples(10)
@given(case=cases())
def test_gradients_of_questions_are_those_of_the_definition(question: str, case: Case):
    case, exact = case.with_grad(), case.with_grad()
    x = torch.linspace(-1, 1, case.shape.key_len, dtype=torch.float64)[:, None]
    got, want = (QUESTIONS[question](w, x) for w in (case.run(regard.attention)[1], exact.truth().weights))
    toward = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad(got, list(case.tensors.values()), toward, allow_unused=True)
    wanted = torch.autograd.grad(want, list(exact.tensors.values()), toward, allow_unused=True)
    for (name, t), a, b in zip(case.tensors.items(), found, wanted, strict=True):
        a, b = (torch.zeros_like(t) if g is None else g for g in (a, b))
        properties.assert_near(f"gradient of {name}", a, b, 1e-11 * properties.largest(b))


@examples(10)
@given(case=cases())
def test_gradients_of_entropy_are_those_of_the_definition(case: Case):
    # With a bias or a cap the entropy is a measurement, without a gradient.
    options = {name: o for name, o in case.options.items() if name not in ("bias", "softcap")}
    case = replace(case, options=options)
    case, exact = case.with_grad(), case.with_grad()
    # A row that reads one key has entropy 0, where rounding decides whether clamp_min(0) passes a gradient of 0.
    got, dense = case.run(regard.attention)[1].entropy(), exact.truth().weights
    several = (dense.detach() > 0).sum(-1) > 1
    want = torch.special.entr(torch.where(dense > 0, dense, 1)).sum(-1)
    found = torch.autograd.grad(got[several].sum(), (case.query, case.key))
    wanted = torch.autograd.grad(want[several].sum(), (exact.query, exact.key))
    for name, a, b in zip("qk", found, wanted, strict=True):
        properties.assert_near(f"d{name}", a, b, 1e-11 * properties.largest(b))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38], ids=str)
@pytest.mark.parametrize(
    "mask", [masks.causal() & masks.padding(torch.tensor([5, 0])), masks.window(2)], ids=["padding", "window"]
)
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 3.0}, {"sinks": torch.zeros(2).double()}], ids=["plain", "softcap", "sinks"]
)
def test_unread_keys_leave_no_trace_in_the_weights(mask, options, poison):
    # "sinks, padding" fails: the entropy of a query that reads nothing and holds NaN is NaN, its lse being the sink's.
    allowed = mask.to_dense(6, 9, batch=2, num_heads=2).expand(2, 2, 6, 9)
    results = []
    for filling in (0.0, poison):
        q, k, v = properties.problem(2, 2, query_len=6, key_len=9)
        k = k.masked_fill(~allowed.any(2)[..., None], filling)
        q = q.masked_fill(~allowed.any(3)[..., None], filling)
        w = regard.attention(q, k, v, mask, **options)[1]
        y = torch.ones(6, 2, dtype=q.dtype)
        results.append(
            [
                *(w.to_dense(), w @ v, w.mT @ y, w.entropy(), w.received(), w.pool(3, 3), w.pool(3, 3, "max")),
                *(*w.topk(3), w.diagonal(1), w.distance(), w.mass([0, 8]), w.max_logit()),
                *(w[0, 1, 2], w[0, [0, 1], [2, 3], [8, 0]]),
            ]
        )
    for n, (clean, got) in enumerate(zip(*results, strict=True)):
        assert torch.equal(clean, got), n


@pytest.mark.parametrize("poison", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("question", ["weights @ x", "to_dense", "a row", "entries", "entropy"])
def test_unread_keys_leave_no_trace_in_gradients_through_the_weights(question, poison):
    # Indexing and to_dense fail: the product q @ k.mT is differentiated with the NaN in k and q, 0 * NaN.
    mask = masks.causal(offset=-1) & masks.padding(torch.tensor([5, 0]))  # row 0 and the second sequence read nothing
    allowed = mask.to_dense(6, 9, batch=2).expand(2, 2, 6, 9)
    ask = QUESTIONS.get(question, lambda w, x: w.entropy())
    results = []
    for filling in (0.0, poison):
        q, k, v = properties.problem(2, 2, query_len=6, key_len=9)
        k = k.masked_fill(~allowed.any(2)[..., None], filling).requires_grad_()
        q = q.masked_fill(~allowed.any(3)[..., None], filling).requires_grad_()
        answer = ask(regard.attention(q, k, v, mask)[1], torch.linspace(-1, 1, 9, dtype=q.dtype)[:, None])
        results.append(torch.autograd.grad(answer.square().sum(), (q, k)))
    for name, clean, got in zip("qk", *results, strict=True):
        assert torch.equal(clean, got), f"d{name}"


def small(mask=None, **options):
    q, k, v = properties.problem(1, 2, query_len=4, key_len=5)
    return regard.attention(q, k, v, mask, **options)[1]


def test_repr_says_what_it_is_and_what_ran():
    assert repr(small(masks.causal())) == (
        "AttentionWeights(1 x 2 x 4 x 5, float64, mask=causal(); "
        "fused: PyTorch's fused op on cpu, 1 partial tile, 100% of the entries)"
    )
    assert repr(small()).startswith("AttentionWeights(1 x 2 x 4 x 5, float64; fused: ")


def test_it_knows_its_sizes():
    w = small()
    assert (w.shape, w.ndim, len(w), w.dtype, w.device) == ((1, 2, 4, 5), 4, 1, torch.float64, torch.device("cpu"))
    assert (w.mT.shape, w.mT.mT is w) == ((1, 2, 5, 4), True)
    assert w.lse.shape == (1, 2, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_numpy_makes_an_array_of_it(dtype):
    q, k, v = (t.to(dtype).requires_grad_() for t in properties.problem(1, 2, query_len=4, key_len=5))
    w = regard.attention(q, k, v)[1]
    array = np.asarray(w)
    assert array.shape == (1, 2, 4, 5)
    assert array.dtype == str(dtype).removeprefix("torch.")
    assert np.array_equal(array, w.to_dense().detach().numpy())
    assert np.asarray(w, dtype=np.float32).dtype == np.float32


def test_numpy_makes_float32_of_bfloat16():
    q, k, v = (t.bfloat16() for t in properties.problem(1, 1, query_len=4, key_len=5))
    w = regard.attention(q, k, v)[1]
    assert np.asarray(w).dtype == np.float32
    assert np.array_equal(np.asarray(w), w.to_dense().float().numpy())


def test_iterating_gives_the_first_axis():
    w = small()
    assert [t.shape for t in w] == [(2, 4, 5)]
    q, k, v = (t[0, 0] for t in properties.problem(1, 2, query_len=4, key_len=5))
    rows = list(regard.attention(q, k, v)[1])
    assert torch.equal(torch.stack(rows), small()[0, 0])


def test_integers_and_booleans_can_be_multiplied():
    w = small()
    some = torch.tensor([1, 0, 0, 1, 0])
    torch.testing.assert_close(w @ some, w.to_dense() @ some.double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(w @ some.bool(), w.to_dense() @ some.double(), rtol=0, atol=1e-14)
    assert (w @ torch.zeros(5, 0)).shape == (1, 2, 4, 0)


def test_products_carry_gradients_of_their_argument():
    w = small()
    x = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad((w @ x).sum(), x)
    torch.testing.assert_close(got, w.received().sum((0, 1))[:, None].expand(5, 2), rtol=0, atol=1e-13)
