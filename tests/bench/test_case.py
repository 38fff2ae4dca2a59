from __future__ import annotations

import pytest
import torch

from regard.bench.case import Bar, Case, Disagreement, Duel, Measured, Missing, Solo
from regard.bench.compare import close_to, within_budget
from regard.bench.machine import Machine
from regard.bench.progress import Progress
from regard.bench.runner import measure
from regard.bench.timing import Spread, Subject

MACHINE = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11", "Linux x86_64", 100.0)


def duel(check, subject=lambda _: None) -> Duel:
    return Duel(Subject("ours", subject), Subject("theirs", lambda _: None), check)


def case(build, *bars: Bar) -> Case:
    return Case("name", "group", "what", build, bars)


def test_a_case_whose_results_differ_is_refused_and_never_timed():
    calls: list[object] = []

    def check() -> str:
        close_to("output", torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]).double(), ulps=100)
        return "the same"

    result = measure(
        case(lambda: duel(check, calls.append), Bar("ratio", 100.0)), repeats=2, machine=MACHINE, progress=Progress(1)
    )
    assert calls == []
    assert result.verdict == "failed"
    assert result.failed is not None
    assert result.failed.startswith("wrong, so not timed: output: off by 0.5")
    assert result.ratio is None
    assert not result.met(Bar("ratio", 100.0))


def test_a_case_that_raises_fails_alone():
    def build() -> Duel:
        raise RuntimeError("no such kernel")

    result = measure(case(build), repeats=2, machine=MACHINE, progress=Progress(1))
    assert (result.verdict, result.failed) == ("failed", "RuntimeError: no such kernel")


def test_a_case_that_agrees_is_timed():
    result = measure(case(lambda: duel(lambda: "all of it")), repeats=2, machine=MACHINE, progress=Progress(1))
    assert result.samples == 2
    assert result.ratio is not None
    assert result.checked == "all of it"
    assert result.verdict == "no bar"


def test_a_case_whose_peer_is_missing_is_skipped_and_never_timed():
    def build() -> Duel:
        raise Missing("it is not installed")

    result = measure(case(build, Bar("ratio", 1.0)), repeats=2, machine=MACHINE, progress=Progress(1))
    assert (result.verdict, result.skipped, result.failed) == ("skipped", "it is not installed", None)
    assert result.ratio is None


def test_a_quick_measure_takes_at_most_three_rounds_and_a_record_at_least_five():
    both = [
        measure(case(lambda: duel(str)), repeats=None, quick=quick, machine=MACHINE, progress=Progress(1)).samples
        for quick in (True, False)
    ]
    assert both[0] == 3
    assert both[1] >= 5


def test_a_speedup_is_the_median_of_the_peers_time_over_the_subjects():
    slow = case(lambda: duel(lambda: "all of it", lambda _: sum(range(200_000))))
    result = measure(slow, repeats=3, machine=MACHINE, progress=Progress(1))
    assert result.speedup is not None
    assert result.ratio is not None
    assert result.speedup.median == pytest.approx(1 / result.ratio.median)
    assert result.value("speedup") == result.speedup.median < 1


def test_a_solo_reports_the_median_of_what_it_says():
    seconds = iter([3.0, 1.0, 2.0])
    solo = case(lambda: Solo("import", lambda: next(seconds)), Bar("seconds", 2.0))
    result = measure(solo, repeats=3, machine=MACHINE, progress=Progress(1))
    assert result.subject == ("import", 2.0)
    assert result.verdict == "met"


@pytest.mark.parametrize(("median", "verdict"), [(1.0, "met"), (1.05, "met"), (1.0501, "missed")])
def test_a_bar_is_missed_above_it_and_met_at_it(median: float, verdict: str):
    held = case(lambda: duel(str), Bar("ratio", 1.05))
    assert Measured(held, ratio=Spread(median, 0.5, 2.0)).verdict == verdict


@pytest.mark.parametrize(("median", "verdict"), [(7.5, "met"), (7.0, "met"), (6.999, "missed")])
def test_a_bar_of_at_least_is_missed_below_it_and_met_at_it(median: float, verdict: str):
    held = case(lambda: duel(str), Bar("speedup", at_least=7))
    assert Measured(held, speedup=Spread(median, 1.0, 9.0)).verdict == verdict


@pytest.mark.parametrize("limits", [{}, {"at_most": 1.0, "at_least": 1.0}])
def test_a_bar_has_one_limit(limits: dict[str, float]):
    with pytest.raises(ValueError, match=r"Bar\('ratio'\): expected at_most or at_least, and not both"):
        Bar("ratio", **limits)


@pytest.mark.parametrize(
    ("bars", "shown"),
    [
        ((), "speedup"),
        ((Bar("memory", 3), Bar("ratio", 1)), "ratio"),
        ((Bar("speedup", at_least=2), Bar("memory", 3)), "speedup"),
        ((Bar("difference", 60),), "difference"),
    ],
)
def test_a_case_is_shown_as_it_is_held(bars: tuple[Bar, ...], shown: str):
    assert case(lambda: duel(str), *bars).shown == shown


def test_one_missed_bar_of_two_is_a_miss():
    held = case(lambda: duel(str), Bar("ratio", 1.3), Bar("memory", 300))
    assert Measured(held, ratio=Spread(1.0, 1.0, 1.0), memory=301.0).verdict == "missed"
    assert Measured(held, ratio=Spread(1.0, 1.0, 1.0), memory=299.0).verdict == "met"


def test_what_was_not_measured_is_missed():
    held = case(lambda: duel(str), Bar("memory", 300))
    assert Measured(held, ratio=Spread(1.0, 1.0, 1.0)).verdict == "missed"


def test_the_budget_is_twice_the_peers_error_in_each_slice():
    truth = torch.ones(2, 4, 4).double()
    peer = truth.float()
    peer[1] += 1e-3
    good = truth.float()
    good[1] += 1.9e-3
    assert 0.9 < within_budget("output", good, peer, truth) < 1.0
    bad = truth.float()
    bad[0] += 1.9e-3  # allowed in slice 1, where the peer is as far off, and not in slice 0
    with pytest.raises(Disagreement, match=r"output: off by 0\.0019 in slice 0"):
        within_budget("output", bad, peer, truth)


def test_an_exact_result_uses_nothing_of_the_budget():
    zeros = torch.zeros(1, 2, 2)
    assert within_budget("output", zeros, zeros, zeros.double()) == 0.0


def test_zeros_are_never_within_budget():
    truth = torch.randn(3, 8, 8, dtype=torch.float64)
    with pytest.raises(Disagreement, match="off by"):
        within_budget("output", torch.zeros(3, 8, 8), truth.float(), truth)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float):
    truth = torch.ones(1, 2, 2).double()
    got = truth.float()
    got[0, 0, 0] = bad
    with pytest.raises(Disagreement, match="holds NaN or inf"):
        within_budget("output", got, truth.float(), truth)
    with pytest.raises(Disagreement, match="holds NaN or inf"):
        close_to("output", got, truth, ulps=1e9)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(Disagreement, match=r"output: shape \(1,\); expected \(4,\)"):
        close_to("output", torch.ones(1), torch.ones(4).double(), ulps=10)


def test_closeness_is_relative_to_the_row():
    truth = torch.tensor([[1000.0, 1.0], [1.0, 1.0]]).double()
    got = truth.float()
    got[0, 1] += 1e-4
    close_to("rows", got, truth, ulps=10)
    got = truth.float()
    got[1, 1] += 1e-4
    with pytest.raises(Disagreement, match=r"rows: off by 0\.0001 in row 1"):
        close_to("rows", got, truth, ulps=10)


@pytest.mark.parametrize(
    ("bar", "words"),
    [
        (Bar("ratio", 1.05), "at most 1.05x"),
        (Bar("speedup", at_least=7), "at least 7x as fast"),
        (Bar("speedup", at_least=0.5), "at least 0.5x as fast"),
        (Bar("difference", 60), "at most 60 µs"),
        (Bar("memory", 300), "at most 300 MB"),
        (Bar("seconds", 0.15), "at most 0.15 s"),
    ],
)
def test_a_bar_says_its_unit(bar: Bar, words: str):
    assert bar.describe() == words
