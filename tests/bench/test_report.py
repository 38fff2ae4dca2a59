from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from regard import bench
from regard.bench import report as reporting
from regard.bench.case import Bar, Case, Measured
from regard.bench.machine import Machine
from regard.bench.timing import Spread

MACHINE = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11.7", "Linux x86_64", 123.456, 0.25)


def build():
    raise AssertionError("a report builds nothing")


GOOD = Measured(
    Case("good", "group", "what is good", build, (Bar("ratio", 1.3), Bar("memory", 300))),
    subject=("weights.entropy", 0.5),
    peer=("one fused causal forward", 0.4),
    ratio=Spread(1.25, 1.2, 1.28),
    speedup=Spread(0.8, 0.78, 0.83),
    difference=Spread(1e5, 0.9e5, 1.1e5),
    memory=12.3,
    samples=7,
    share_of_peak=0.9,
    checked="everything",
)
SLOW = Measured(
    Case("slow", "group", "what is slow", build, (Bar("difference", 60),)),
    subject=("regard.attention", 120e-6),
    peer=("F.scaled_dot_product_attention", 20e-6),
    ratio=Spread(6.0, 5.0, 7.0),
    difference=Spread(100.0, 90.0, 110.0),
    samples=7,
)
FAST = Measured(
    Case("fast", "group", "what is fast", build, (Bar("speedup", at_least=7),)),
    subject=("regard.attention", 0.1),
    peer=("SDPA, is_causal", 0.65),
    ratio=Spread(0.15, 0.14, 0.16),
    speedup=Spread(6.5, 6.4, 6.6),
    difference=Spread(-5.5e5, -6e5, -5e5),
    samples=7,
)
BESIDE = dataclasses.replace(FAST, case=Case("beside", "group", "what is beside", build))
MISSING = Measured(Case("missing", "group", "what is missing", build), skipped="it is not installed")
WRONG = Measured(Case("wrong", "group", "what is wrong", build, (Bar("ratio", 9),)), failed="wrong, so not timed: off")


def make(*results: Measured) -> bench.Report:
    return bench.Report(MACHINE, "2026-01-02T03:04:05+00:00", "0.1", quick=True, repeats=7, results=results)


def test_json_holds_all_that_a_reader_needs():
    document = json.loads(bench.to_json(make(GOOD, SLOW, WRONG)))
    assert document["schema"] == reporting.SCHEMA
    assert document["met"] is False
    assert document["date"] == "2026-01-02T03:04:05+00:00"
    assert document["settings"] == {"quick": True, "repeats": 7, "threads": 1}
    assert document["machine"] == {
        "cpu": "a processor",
        "cores": 2,
        "threads": 1,
        "vector": "AVX2",
        "torch": "2.13.0",
        "python": "3.11.7",
        "system": "Linux x86_64",
        "peak_gflops": 123.5,
        "load": 0.25,
    }
    good, slow, wrong = document["cases"]
    assert good == {
        "name": "good",
        "group": "group",
        "what": "what is good",
        "seconds": {"weights.entropy": 0.5, "one fused causal forward": 0.4},
        "ratio": {"median": 1.25, "low": 1.2, "high": 1.28},
        "speedup": {"median": 0.8, "low": 0.78, "high": 0.83},
        "difference_us": {"median": 1e5, "low": 0.9e5, "high": 1.1e5},
        "memory_mb": 12.3,
        "peer_memory_mb": None,
        "peer_share_of_peak": 0.9,
        "samples": 7,
        "checked": "everything",
        "failed": None,
        "skipped": None,
        "bars": [
            {"quantity": "ratio", "unit": "x", "at_most": 1.3, "at_least": None, "measured": 1.25, "met": True},
            {"quantity": "memory", "unit": "MB", "at_most": 300, "at_least": None, "measured": 12.3, "met": True},
        ],
        "verdict": "met",
    }
    assert slow["bars"] == [
        {"quantity": "difference", "unit": "µs", "at_most": 60, "at_least": None, "measured": 100.0, "met": False}
    ]
    assert slow["verdict"] == "missed"
    assert wrong["verdict"] == "failed"
    assert wrong["seconds"] == {}
    assert wrong["bars"][0]["measured"] is None
    assert {frozenset(each) for each in (slow, wrong)} == {frozenset(good)}


def test_a_speedup_that_is_asked_is_shown_and_recorded_as_one():
    text = bench.to_text(make(FAST))
    row = next(line for line in text.splitlines() if line.startswith("fast"))
    for words in ("100 ms", "650 ms", "6.500x", "6.400 to 6.600", "≥7x", "missed"):
        assert words in row
    assert "fast misses speedup: 6.5x, asked at least 7x as fast" in text
    (bar,) = json.loads(bench.to_json(make(FAST)))["cases"][0]["bars"]
    assert bar == {"quantity": "speedup", "unit": "x", "at_most": None, "at_least": 7, "measured": 6.5, "met": False}


def test_a_peer_that_is_missing_is_a_line_and_no_miss():
    report = make(BESIDE, MISSING)
    assert report.met
    text = bench.to_text(report)
    assert "missing skipped: it is not installed" in text
    assert "misses" not in text
    beside, missing = json.loads(bench.to_json(report))["cases"]
    assert (missing["verdict"], missing["skipped"], missing["seconds"]) == ("skipped", "it is not installed", {})
    assert (beside["verdict"], beside["bars"]) == ("no bar", [])
    assert "6.500x" in next(line for line in text.splitlines() if line.startswith("beside"))


def test_a_run_is_met_only_if_every_case_is():
    assert make(GOOD).met
    assert not make(GOOD, SLOW).met
    assert not make(GOOD, WRONG).met


def printed(capsys: pytest.CaptureFixture[str], report: bench.Report) -> str:
    bench.show(report)
    return capsys.readouterr().out


def test_a_missed_bar_and_a_failure_are_shown_in_words():
    text = bench.to_text(make(GOOD, SLOW, WRONG))
    assert "slow misses difference: 100 µs, asked at most 60 µs" in text
    assert "wrong failed: wrong, so not timed: off" in text
    assert "good misses" not in text
    assert "A quick run" in text


def test_the_machines_peak_stands_beside_the_numbers():
    assert "float32 matrix product: 123 GFLOP/s" in bench.to_text(make(GOOD))


def test_the_drawn_table_says_what_the_plain_one_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    drawn = printed(capsys, make(GOOD, SLOW, WRONG))
    for words in (
        "1.250x",
        "1.200 to 1.280",
        "12 MB",
        "+100.0 µs",
        "90.0 to 110.0",
        "≤1.3x ≤300 MB",
        "missed",
        "failed",
        "slow misses difference",
    ):
        assert words in drawn
        assert words in bench.to_text(make(GOOD, SLOW, WRONG))


def test_without_rich_the_table_is_plain_text(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert printed(capsys, make(GOOD, SLOW)) == bench.to_text(make(GOOD, SLOW)) + "\n"


def test_a_narrow_terminal_loses_the_quartiles_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    drawn = printed(capsys, make(GOOD, SLOW, WRONG))
    assert "1.200 to 1.280" not in drawn
    row = next(line for line in drawn.splitlines() if line.startswith("good"))
    for words in ("500 ms", "400 ms", "1.250x", "12 MB", "≤1.3x ≤300 MB", "met"):
        assert words in row


@pytest.mark.parametrize(("load", "warned"), [(5.0, True), (1.01, True), (1.0, False), (None, False)])
def test_a_machine_that_others_use_is_named_as_such(load, warned):
    report = dataclasses.replace(make(GOOD), machine=dataclasses.replace(MACHINE, load=load))
    assert ("Others were using this machine" in bench.to_text(report)) is warned


@pytest.mark.parametrize(
    ("seconds", "words"), [(15.46, "15.5 s"), (0.1133, "113 ms"), (0.00526, "5.26 ms"), (32.68e-6, "32.7 µs")]
)
def test_seconds_have_three_digits(seconds, words):
    assert words in bench.to_text(make(dataclasses.replace(GOOD, subject=("s", seconds))))
