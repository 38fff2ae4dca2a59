from __future__ import annotations

import gc

import pytest

from regard.bench.timing import SHORTEST_SAMPLE, VERY_LONG, Spread, Subject, differences, interleave, ratios


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passing(self, *seconds: float):
        """A call that lets these seconds pass, one after the other, then the last one again and again."""
        left = list(seconds)

        def call(_: object) -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


# Before the first sample comes one call to warm up, and one to learn how long a call takes: three if it is short.
BEFORE = 2
BEFORE_SHORT = 4


def test_spread_is_median_and_quartiles():
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert Spread.of([1.0, 2.0]) == Spread(median=1.5, low=1.25, high=1.75)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="numbers: got none"):
        Spread.of([])


def test_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    subject, peer = [1.0, 20.0, 9.0], [2.0, 5.0, 3.0]  # ratios 0.5, 4, 3; medians 9 and 3
    assert ratios(subject, peer).median == 3.0
    assert ratios([1.0, 20.0, 9.0], [2.0, 9.0, 3.0]).median == pytest.approx(20 / 9)  # the medians' ratio is 3


def test_difference_is_taken_within_a_round():
    assert differences([3.0, 10.0, 5.0], [1.0, 5.0, 2.0]).median == 3.0


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_machine_that_slows_down_does_not_move_the_ratio():
    clock = Clock()
    slower = [2.0**n for n in range(6)]
    samples = interleave(
        (
            Subject("a", clock.passing(*[1.0] * BEFORE, *(3.0 * s for s in slower))),
            Subject("b", clock.passing(*[1.0] * BEFORE, *slower)),
        ),
        repeats=6,
        clock=clock,
    )
    assert samples["b"] == slower
    assert ratios(samples["a"], samples["b"]) == Spread(3.0, 3.0, 3.0)


def test_order_rotates_round_by_round():
    clock = Clock()
    order: list[str] = []

    def subject(name: str) -> Subject:
        def call(_: object) -> None:
            order.append(name)
            clock.now += 1.0

        return Subject(name, call)

    interleave([subject("a"), subject("b"), subject("c")], repeats=4, clock=clock)
    assert "".join(order[3 * BEFORE :]) == "abc" + "bca" + "cab" + "abc"


def test_short_calls_are_repeated_within_a_sample_and_reported_for_one_call():
    clock = Clock()
    calls = 0

    def call(_: object) -> None:
        nonlocal calls
        calls += 1
        clock.now += SHORTEST_SAMPLE / 10

    samples = interleave([Subject("short", call)], repeats=2, clock=clock)
    assert samples["short"] == pytest.approx([SHORTEST_SAMPLE / 10] * 2)
    assert 2 * 10 <= calls - BEFORE_SHORT <= 2 * 11


def test_every_call_gets_an_input_of_its_own_made_off_the_clock():
    clock = Clock()
    made: list[object] = []
    used: list[object] = []

    def prepare() -> object:
        clock.now += 1000.0
        made.append(object())
        return made[-1]

    def call(given: object) -> None:
        clock.now += 0.5
        used.append(given)

    samples = interleave([Subject("s", call, prepare)], repeats=3, clock=clock)
    assert samples["s"] == [0.5, 0.5, 0.5]
    assert used == made
    assert len(set(map(id, used))) == len(used)


@pytest.mark.parametrize(("seconds_a_call", "rounds"), [(100.0, 3), (10.0, 3), (9.0, 5), (1.0, 10), (0.01, 51)])
def test_rounds_fit_the_time_within_limits(seconds_a_call: float, rounds: int):
    clock = Clock()
    samples = interleave([Subject("s", clock.passing(seconds_a_call))], seconds=10.0, clock=clock)
    assert len(samples["s"]) == rounds


@pytest.mark.parametrize(("seconds_a_call", "rounds"), [(100.0, 1), (1.5, 2), (0.01, 4)])
def test_rounds_stay_within_the_limits_that_are_given(seconds_a_call: float, rounds: int):
    clock = Clock()
    subject = Subject("s", clock.passing(seconds_a_call))
    samples = interleave([subject], seconds=3.0, least=1, most=4, clock=clock)
    assert len(samples["s"]) == rounds


@pytest.mark.parametrize(("seconds_a_call", "before"), [(VERY_LONG, 1), (1.0, BEFORE), (0.01, BEFORE_SHORT)])
def test_a_call_that_takes_seconds_is_not_made_again_to_learn_how_long_it_takes(seconds_a_call: float, before: int):
    clock = Clock()
    calls = 0

    def call(_: object) -> None:
        nonlocal calls
        calls += 1
        clock.now += seconds_a_call

    interleave([Subject("s", call)], repeats=2, clock=clock)
    assert calls - before == 2


def test_progress_is_told_after_every_round():
    clock = Clock()
    told: list[tuple[int, int]] = []
    interleave(
        [Subject("s", clock.passing(1.0))], repeats=3, clock=clock, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_garbage_collection_waits_and_is_back_even_after_an_error():
    clock = Clock()
    seen: list[bool] = []

    def call(_: object) -> None:
        seen.append(gc.isenabled())
        clock.now += 1.0
        if len(seen) > BEFORE:
            raise RuntimeError("in the middle")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="in the middle"):
        interleave([Subject("s", call)], repeats=1, clock=clock)
    assert gc.isenabled()
    assert not any(seen)


def test_two_subjects_of_one_name_are_refused():
    with pytest.raises(ValueError, match="names that differ"):
        interleave([Subject("s", print), Subject("s", print)], repeats=1)


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="repeats: got 0; expected at least 1"):
        interleave([Subject("s", print)], repeats=0)
