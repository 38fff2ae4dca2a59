from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.check.mutant_questions import ALIGNED, QUESTIONS, call, differs, gradients

from regard.check.contract import REGARD
from regard.check.definition import define, grouped
from regard.check.mutants import as_function, as_module
from regard.check.mutants.attend import attend
from regard.check.request import Request


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Tensors of a few numbers: threads that wait for each other would take most of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "contract", [REGARD, ALIGNED, replace(REGARD, combined="mask-only"), replace(REGARD, causal="always")]
)
@pytest.mark.parametrize("question", QUESTIONS)
def test_attention_in_pieces_is_the_definition(question, contract):
    r = QUESTIONS[question]
    assert torch.equal(attend(r, contract).nan_to_num(7.0), define(r, contract).nan_to_num(7.0))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_control_function_is_the_definition(question):
    r = QUESTIONS[question]
    control = as_function(define)
    assert torch.equal(call(control, r), define(r, REGARD))
    output, weights = call(control, r, need_weights=True)
    assert torch.equal(output, define(r, REGARD))
    value = torch.where((weights > 0).any(-2)[..., None], grouped(r.value, r.query.shape[1], REGARD), 0)
    assert weights.shape == (*r.query.shape[:3], r.key_len)
    assert not differs(weights @ value, output)


def test_the_control_takes_masks_of_every_shape():
    r = QUESTIONS["mask"]
    control = as_function(define)
    for mask in (r.mask[0, 0], r.mask[:1], r.mask[:, :1], r.mask):
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        full = mask[(None,) * (4 - mask.dim())]
        want = define(r.but(mask=full), REGARD)
        assert torch.equal(control(r.query, r.key, r.value, mask), want)
        assert torch.equal(control(r.query, r.key, r.value, added), want)


def test_a_float_mask_and_a_bias_add_up():
    r = QUESTIONS["bias"]
    control = as_function(define)
    assert not differs(
        control(r.query, r.key, r.value, 2 * r.bias, bias=r.bias), define(r.but(bias=3 * r.bias), REGARD)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_control_computes_halves_in_float32(dtype):
    r = QUESTIONS["mask"].map(lambda t: t.to(dtype))
    got = call(as_function(define), r)
    want = define(r.map(lambda t: t.float()), REGARD).to(dtype)
    assert got.dtype == dtype
    assert torch.equal(got, want)


@pytest.mark.parametrize("question", ["plain", "mask", "empty row", "causal, more keys", "grouped", "softcap and bias"])
def test_the_control_has_the_gradients_of_the_definition(question):
    r = QUESTIONS[question]
    control = as_function(define)
    got = gradients(lambda q, k, v: call(control, r.but(query=q, key=k, value=v)), r)
    want = gradients(lambda q, k, v: define(r.but(query=q, key=k, value=v), REGARD), r)
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("question", ["mask", "grouped", "empty row", "unread"])
def test_dropout_of_the_control_has_the_right_mean(question):
    torch.manual_seed(0)
    r, times, p = QUESTIONS[question], 2000, 0.3
    control = as_function(define)
    many = r.map(lambda t: t.repeat(times, 1, 1, 1))
    if r.mask is not None and r.mask.shape[0] > 1:
        many = many.but(mask=r.mask.repeat(times, 1, 1, 1))
    drawn = call(control, many, dropout=p).unflatten(0, (times, -1))
    off = (drawn.mean(0) - define(r, REGARD)).abs()
    assert bool((off <= 5 * drawn.std(0) / times**0.5 + 1e-12).all())
    assert not torch.equal(drawn[0], drawn[1])


def test_the_control_module_is_the_definition_between_its_projections():
    module = as_module(define).double()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 24, generator=g, dtype=torch.float64)
    context = torch.randn(2, 7, 24, generator=g, dtype=torch.float64)
    for source in (x, context):
        mask = torch.rand(2, 3, 5, source.shape[1], generator=g) < 0.6
        for causal in (False, True):
            q, k, v = (
                layer(t).unflatten(-1, (3, 8)).transpose(1, 2)
                for layer, t in ((module.q_proj, x), (module.k_proj, source), (module.v_proj, source))
            )
            heads = define(Request(q, k, v, mask=mask, causal=causal), REGARD)
            want = module.out_proj(heads.transpose(1, 2).flatten(2))
            options = {"context": None if source is x else source, "mask": mask, "is_causal": causal}
            assert torch.equal(module(x, **options), want)
            output, weights = module(x, **options, need_weights=True)
            assert torch.equal(output, want)
            assert not differs(weights @ v, heads)


def test_the_control_module_drops_in_training_alone():
    module = as_module(define)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    plain = module(x)
    module.dropout.p = 0.5
    assert not torch.equal(module(x), plain)
    assert torch.equal(module.eval()(x), plain)
    assert not torch.equal(module.train()(x), module(x))


def test_modules_are_built_equal_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    first, second = as_module(define), copy.deepcopy(as_module(define))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
