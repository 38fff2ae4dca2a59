"""regard::attend and regard::attend_backward: operators as torch expects them, that compute what eager code does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests import properties
from tests.compiling import fresh, qkv
from tests.strategies import Case, cases, examples
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from regard import compiled
from regard.functional import as_mask

__all__ = ["fresh"]


def operands(**options):
    q, k, v = qkv()
    call = {
        "seed": None,
        "tensors": [],
        "numbers": [],
        "batch_shape": [2],
        "words": "causal",
        "headless": False,
        "scale": None,
        "softcap": None,
        "dropout": 0.0,
        "impl": "auto",
    }
    return (q, k, v, options.pop("bias", None), options.pop("sinks", None), *{**call, **options}.values())


SAMPLES = {
    "plain": {},
    "tensors": {"words": "and documents prefix", "tensors": [torch.arange(12) // 5], "numbers": [3], "scale": 0.2},
    "everything": {
        "bias": torch.randn(1, 4, 10, 12, requires_grad=True),
        "sinks": torch.randn(4, requires_grad=True),
        "seed": torch.tensor(7),
        "dropout": 0.5,
        "softcap": 2.0,
    },
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_operators_are_what_torch_expects(name):
    given = operands(**SAMPLES[name])
    torch.library.opcheck(torch.ops.regard.attend.default, given)
    with torch.no_grad():
        out, lse = torch.ops.regard.attend(*given)
    bare = tuple(t.detach() if isinstance(t, Tensor) else t for t in given)
    needs = [t is not None for t in given[:5]]
    for grads in ((torch.randn_like(out), torch.randn_like(lse)), (torch.randn_like(out), None), (None, lse)):
        torch.library.opcheck(torch.ops.regard.attend_backward.default, (out, lse, *grads, needs, *bare))


def test_an_operator_rounds_nothing_under_autocast():
    given = operands(softcap=3.0)  # in plain products, that autocast would round
    want = torch.ops.regard.attend(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as an exported program may be run
        got = torch.ops.regard.attend(*given)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def in_graph(query, key, value, mask=None, *, impl="auto", dropout=0.0, **options):
    """What a graph is made of, run as it is."""
    given = {"bias": None, "scale": None, "softcap": None, "sinks": None, **options}
    mask = None if mask is None else as_mask(mask)
    return compiled.attention(query, key, value, mask, dropout=dropout, impl=impl, **given)


@examples(60)
@given(cases(dtypes=(torch.float64, torch.float32, torch.bfloat16, torch.float16)))
def test_output_and_lse_are_those_of_the_definition(case: Case):
    properties.matches_the_definition(in_graph, case)


@examples(30)
@given(cases(dtypes=(torch.float32,)))
def test_the_reference_path_is_the_definition_too(case: Case):
    properties.matches_the_definition(lambda *a, **o: in_graph(*a, **o, impl="reference"), case)


@examples(40)
@given(cases())
def test_gradients_are_those_of_the_definition(case: Case):
    properties.gradients_match_the_definition(in_graph, case)


@examples(20)
@given(cases())
def test_gradients_through_lse_are_those_of_the_definition(case: Case):
    properties.gradients_match_the_definition(in_graph, case, through_lse=True)


@examples(25)
@given(cases(dtypes=(torch.float32, torch.bfloat16)))
def test_the_fake_tensors_are_of_the_form_of_the_real_ones(case: Case):
    """A graph is planned for the sizes, dtypes and strides that the fake implementations name."""
    case = case.with_grad()
    with FakeTensorMode() as mode:

        def fake(t):
            return mode.from_tensor(t) if isinstance(t, Tensor) else t

        options = {name: fake(t) for name, t in case.options.items()}
        given = [fake(t) for t in (case.query, case.key, case.value)]
        out, _ = in_graph(*given, None, **options)  # a mask changes no form
        grads = torch.autograd.grad(out.sum(), [*given, *(t for t in options.values() if isinstance(t, Tensor))])
    real, _ = case.run(in_graph)
    for a, b in zip((out, *grads), (real, *torch.autograd.grad(real.sum(), case.tensors.values())), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        long = [axis for axis, n in enumerate(a.shape) if n > 1]  # the stride of an axis of 1 is nobody's
        assert [a.stride(axis) for axis in long] == [b.stride(axis) for axis in long]
