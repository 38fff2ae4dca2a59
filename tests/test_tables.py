"""The README's figures are those of the recorded run, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from regard import bench
from regard.bench import cases, scaling
from regard.bench.case import Case, Measured
from regard.bench.machine import Machine
from regard.bench.scaling.curves import Curve
from regard.bench.scaling.kinds import KINDS
from regard.bench.timing import Spread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tables):
    return json.loads(tables.RUN.read_text(encoding="utf-8"))


MACHINE = Machine("a processor", 2, 2, "AVX2", "2.13.0", "3.11.7", "Linux x86_64", 123.4, 0.25)


def at_the_bar(case: Case, *, met: bool) -> Measured:
    """A result at every limit of its case, or a little beyond."""
    slower, more = (1.0, 0) if met else (1.004, 1)
    values = {bar.quantity: bar.at_most if bar.at_least is None else bar.at_least for bar in case.bars}
    ratio = values.get("ratio", 1.0) * slower
    memory = values.get("memory", 0.0) + more
    if "share" in values:
        memory = 1000 * values["share"] * slower
    return Measured(
        case,
        subject=("regard", 1.0),
        peer=("a peer", 1.0),
        ratio=Spread(ratio, ratio, ratio),
        speedup=Spread(*[values.get("speedup", 2.0) / slower] * 3),
        difference=Spread(*[values.get("difference", 0.0) + more] * 3),
        memory=memory,
        peer_memory=1000.0,
    )


def today(*, met: bool) -> dict:
    """What a run of today's cases looks like."""
    results = tuple(at_the_bar(case, met=met) for case in cases.ALL)
    return json.loads(bench.to_json(bench.Report(MACHINE, "now", "0.1", quick=False, repeats=None, results=results)))


def grown(power: float) -> dict:
    lengths = (8192, 16384)
    of_each = tuple(Curve(name, lengths, tuple(n**power for n in lengths), lengths) for name in KINDS)
    return json.loads(
        scaling.to_json(scaling.Scaling(MACHINE, "now", "0.1", quick=False, rounds=5, checked="", curves=of_each))
    )


def test_the_readme_holds_the_recorded_run(tables, run):
    named = re.findall(r"<!-- bench: (\w+) -->", README)
    assert {"weights", "speed"} <= set(named) <= {"weights", "speed", "promises", "watch", "parts", "peers", "scaling"}
    assert len(named) == len(set(named)) == README.count("<!-- bench: ")
    assert tables.filled(README, run, tables.recorded(tables.SCALING)) == README, "run: python docs/tables.py"


def test_every_case_that_has_a_peer_is_in_one_table(tables):
    rows = [*tables.WEIGHTS, *tables.SPEED, *tables.PROMISES, *tables.WATCH, *tables.PARTS, *tables.PEERS]
    assert sorted(rows) == sorted(case.name for case in cases.ALL if case.name != "import")


@pytest.mark.parametrize("name", ["speed", "promises", "watch", "parts"])
def test_a_table_of_todays_cases_says_what_is_met_and_what_is_missed(tables, name):
    met, missed = (tables.table(name, today(met=met)).splitlines() for met in (True, False))
    rows = {"speed": tables.SPEED, "promises": tables.PROMISES, "watch": tables.WATCH, "parts": tables.PARTS}[name]
    assert len([line for line in met if line.startswith("| ")]) == 1 + len(rows)
    assert not any("**missed**" in line for line in met)
    held = [line for line in missed if line.startswith("| ")][1:]
    assert all("**missed**" in line for line in held)
    # Each of these is beyond its bar, so none may be printed as the bar itself.
    for line in held:
        measured, asked = (cell.strip() for cell in line.replace("\\|", "").split("|")[3:5])
        for value, limit in zip(measured.split("; "), asked.split("; "), strict=True):
            number, bound = (float(re.search(r"[\d.]+", text)[0]) for text in (value, limit))
            assert number != bound, line


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("window", "| `window(512)`, L 16,384 | SDPA, `is_causal=True` | 7.00x as fast | at least 7x |"),
        (
            "prefix",
            "| `prefix(1024) \\| causal()`, L 8,192 | SDPA, dense boolean mask | 1.70x as fast | at least 1.7x |",
        ),
        ("dropout-training", "| 1.30x as fast; 67 MB | at least 1.3x; at most 67 MB |"),
        ("decode-read", "| the same | reading K and V once | 2.500x | at most 2.5x |"),
    ],
)
def test_a_promise_is_written_as_it_is_asked(tables, name, row):
    line = tables.table("promises", today(met=True)).splitlines()[2 + list(tables.PROMISES).index(name)]
    assert line.endswith(row)


def test_the_peers_have_a_line_each_and_say_when_they_are_missing(tables):
    run = today(met=True)
    (one,) = (case for case in run["cases"] if case["name"] == "peer-flex")
    one.update(skipped="it does not compile here", speedup=None)
    lines = tables.table("peers", run).splitlines()
    assert len(lines) == 2 + len(tables.PEERS)
    assert "| FlexAttention, compiled | it does not compile here |" in lines
    assert "| Hugging Face, eager | 2.00x |" in lines


def test_the_growth_with_the_length_is_a_table_of_its_own(tables):
    assert tables.table("scaling", grown(1.0)).splitlines()[2:4] == [
        "| window(512), forward | 16,384 | L^1.00 | L^1.00 | at most L^1.1 |",
        "| window(512), forward and backward | 16,384 | L^1.00 | L^1.00 | at most L^1.1 |",
    ]
    steep = tables.table("scaling", grown(2.0)).splitlines()
    assert [("**missed**" in line) for line in steep] == [False, False, True, True, False, False]


def test_a_marker_of_the_growth_stays_as_it_is_without_a_record(tables, run):
    text = "<!-- bench: scaling -->\nas it was\n<!-- end -->"
    assert tables.filled(text, run) == text
    assert "L^1.00" in tables.filled(text, run, grown(1.0))


@pytest.mark.parametrize(
    ("speedup", "words"), [(7.0, "7.00"), (6.9999, "6.99"), (17.456, "17.4"), (123.9, "123"), (0.4999, "0.49")]
)
def test_a_speedup_is_never_rounded_up_to_its_bar(tables, speedup, words):
    assert tables._times(speedup) == words


def test_another_run_gives_another_readme(tables, run):
    run["cases"][0]["ratio"]["median"] += 0.5
    assert tables.filled(README, run) != README


def test_a_bar_that_is_missed_is_shown_as_missed(tables, run):
    for met in (True, False):
        for case in run["cases"]:
            for bar in case["bars"]:
                bar["met"] = met
        assert ("**missed**" in tables.table("speed", run)) is not met


def test_the_record_is_no_quick_run_and_has_no_failed_case(run):
    assert run["settings"]["quick"] is False
    assert [case["name"] for case in run["cases"] if case["failed"]] == []
