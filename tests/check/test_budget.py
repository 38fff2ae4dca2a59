from __future__ import annotations

import pytest
import torch

from regard.check import Contract, Violation
from regard.check.budget import FLOOR, SLACK, budget, grade, naive
from regard.check.definition import define
from regard.check.request import Request
from regard.check.violation import expect_near, expect_same


def asked(dtype: torch.dtype = torch.float32, size: float = 1.0) -> Request:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (size * torch.randn(2, 3, 16, 8, generator=generator).to(dtype) for _ in range(3))
    return Request(q, k, v)


def truth(r: Request) -> torch.Tensor:
    return define(r.map(lambda t: t.double()), Contract())


def test_the_naive_formula_in_float64_is_the_definition():
    r = asked().map(lambda t: t.double())
    lower = torch.ones(1, 1, 16, 16).bool().tril(-1)  # row 0 is empty
    for request in (r, r.but(mask=lower), r.but(softcap=2.0, bias=torch.randn(1, 1, 16, 16).double())):
        torch.testing.assert_close(naive(request, Contract()), define(request, Contract()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", FLOOR)
def test_the_budget_by_hand(dtype):
    want = torch.tensor([[[[4.0, -2.0]], [[0.5, 0.25]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    yardstick = want.clone()
    yardstick[0, 1, 0, 0] += 0.125
    eps = torch.finfo(dtype).eps
    expected = [SLACK * (0.125 + FLOOR[dtype] * eps * largest) for largest in (4.0, 0.5)]
    assert budget(want, yardstick, dtype).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "lower"), [(torch.float32, torch.float16), (torch.float64, torch.float32)])
def test_what_passes_through_the_next_lower_precision_is_beyond_the_budget(dtype, lower):
    r = asked(dtype)
    within = budget(truth(r), naive(r, Contract()), dtype)
    rounded = naive(r, Contract()).to(lower).double()
    assert bool(((rounded - truth(r)).abs() > within).any())
    assert bool(((naive(r, Contract()).double() - truth(r)).abs() <= within).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_the_right_answer_has_grade_1(dtype):
    r = asked(dtype)
    assert grade(truth(r).to(dtype), truth(r), dtype) == pytest.approx(1.0)
    assert grade(naive(r, Contract()), truth(r), dtype) > 1.3


def test_one_wrong_number_is_seen_where_a_mean_would_not_see_it():
    want = torch.zeros(2, 3, 50, 8)
    got = want.clone()
    got[1, 2, 49, 7] = 1e-3
    with pytest.raises(Violation, match=r"off by 0.001, allowed 0.0001 \(1 of 2400 numbers are off\)") as violation:
        expect_near("output", got, want, 1e-4)
    assert violation.value.index == (1, 2, 49, 7)
    with pytest.raises(Violation, match="1 of 2400 numbers change"):
        expect_same("output", got, want)


def test_nan_is_near_nothing_and_the_same_as_nan():
    nan = torch.tensor([[1.0, torch.nan]])
    with pytest.raises(Violation, match="1 of 2 numbers are NaN or inf"):
        expect_near("output", nan, torch.ones(1, 2), 1.0)
    with pytest.raises(Violation):
        expect_near("output", nan, nan, 1.0)
    expect_same("output", nan, nan)


def test_shapes_that_would_broadcast_are_not_the_same():
    with pytest.raises(Violation, match=r"output: shape \(1, 2\), expected \(3, 2\)"):
        expect_near("output", torch.ones(1, 2), torch.ones(3, 2), 1.0)
