from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

import regard
from regard import cli
from regard.bench import scaling
from regard.bench.case import Disagreement
from regard.bench.machine import Machine
from regard.bench.scaling import curves, kinds, measure
from regard.bench.scaling.report import to_text

MACHINE = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11.7", "Linux x86_64", 123.456, 0.25)
LENGTHS = (4096, 8192, 16384, 32768)


def curve(name: str, power: float) -> curves.Curve:
    return curves.Curve(
        name,
        LENGTHS,
        # The shortest is off the line, and is not to count.
        (1.0, *(1e-9 * length**power for length in LENGTHS[1:])),
        (1.0, *(1e-3 * length for length in LENGTHS[1:])),
    )


def report(power: float = 1.05) -> scaling.Scaling:
    of_each = tuple(curve(name, power if kind.held else 2.0) for name, kind in kinds.KINDS.items())
    return scaling.Scaling(
        MACHINE, "2026-01-02T03:04:05+00:00", "0.1", quick=False, rounds=5, checked="", curves=of_each
    )


def test_the_slope_is_the_exponent_of_the_power_law():
    assert curves.slope([2, 4, 16], [3 * 2**1.5, 3 * 4**1.5, 3 * 16**1.5]) == pytest.approx(1.5)
    assert curves.slope([1, 2], [0.0, 0.0]) == 0.0


def test_slopes_are_fitted_from_8192_on_and_held_for_the_window_alone():
    fits = {(fit.name, fit.quantity): fit for fit in report().fits}
    assert len(fits) == 8
    assert fits["window", "time"].slope == pytest.approx(1.05)
    assert fits["window-training", "memory"].slope == pytest.approx(1.0)
    assert fits["causal", "time"].slope == pytest.approx(2.0)
    assert fits["window", "time"].met is True
    assert fits["causal", "time"].met is None


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (1.09, True), (1.11, False)])
def test_a_slope_above_the_bar_is_a_miss(power: float, met: bool):
    assert report(power).met is met
    assert ("asked at most 1.1: missed" in to_text(report(power))) is not met


def test_one_length_has_no_slope():
    short = dataclasses.replace(report(), curves=(curves.Curve("window", (8192,), (1.0,), (1.0,)),))
    assert short.fits == ()


def test_the_table_and_the_json_hold_every_point():
    text, document = to_text(report()), json.loads(scaling.to_json(report()))
    rows = [line.split() for line in text.splitlines()]
    assert ["window(512),", "forward", "and", "backward", "4096", "1.00", "s", "1", "MB"] in rows
    assert sum(row[-1:] == ["MB"] for row in rows) == 16
    assert "SDPA is_causal, forward: time grows with L to the power 2.00 from 8192 on\n" in text + "\n"
    assert document["met"] is True
    assert document["machine"]["peak_gflops"] == 123.5
    assert [of_one["name"] for of_one in document["curves"]] == list(kinds.KINDS)
    assert document["curves"][0]["lengths"] == list(LENGTHS)
    assert document["curves"][0]["seconds"][0] == 1.0
    held = {"name": "window", "quantity": "memory", "at_most": 1.1, "met": True}
    assert {key: value for key, value in document["slopes"][1].items() if key != "slope"} == held
    assert document["slopes"][4]["at_most"] is None


def test_a_run_measures_every_kind_at_its_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    shorter = {name: dataclasses.replace(kind, longest=min(kind.longest, 128)) for name, kind in kinds.KINDS.items()}
    shorter["window"] = kinds.KINDS["window"]
    monkeypatch.setattr(measure, "KINDS", shorter)
    monkeypatch.setattr(measure, "peak_extra_of_module", lambda module, *arguments, what: float(arguments[1]))
    found = scaling.run(
        quick=True, threads=1, json=tmp_path / "s.json", figure=tmp_path / "s.png", lengths=(64, 128, 256, 1024)
    )
    assert [(of_one.name, of_one.lengths) for of_one in found.curves] == [
        ("window", (64, 128, 256)),
        ("window-training", (64, 128)),
        ("causal", (64, 128)),
        ("causal-training", (64, 128)),
    ]
    assert found.curves[0].memory == (64.0, 128.0, 256.0)
    assert all(seconds > 0 for of_one in found.curves for seconds in of_one.seconds)
    assert "L 256: output and gradients within" in found.checked
    assert json.loads((tmp_path / "s.json").read_text())["settings"] == {"quick": True, "rounds": 1, "threads": 1}
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", kinds.KINDS)
def test_a_call_starts_from_inputs_of_its_own(name: str):
    longest = kinds.inputs(96)
    one = kinds.subject(name, 64, longest)
    first, second = one.prepare(), one.prepare()
    assert [tuple(x.shape) for x in first] == [(1, 8, 64, 64)] * 4
    assert torch.equal(first[1], longest[1][..., :64, :])
    one.call(first)
    assert (first[0].grad is not None) is kinds.KINDS[name].backward
    assert second[0].grad is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured_in_a_process_of_its_own():
    found = measure.peak_extra_of_module("regard.bench.scaling.memory", "causal", "4096", "1", what="causal")
    assert 4 <= found <= 100  # the output alone has 8.4 MB


def test_a_window_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kinds, "WINDOW", 100)
    with pytest.raises(Disagreement, match="output at L 200, rows from 0: off by"):
        measure.check(200)


def test_wrong_gradients_are_not_timed(monkeypatch: pytest.MonkeyPatch):
    right = regard.attention
    monkeypatch.setattr(regard, "attention", lambda q, k, v, mask: right(q.detach() * 1.0 + 0 * q, k, v, mask))
    with pytest.raises(Disagreement, match="gradient of query at L 64: off by"):
        measure.check(64)


def test_the_figure_has_a_line_for_each_kind_with_its_slope():
    pytest.importorskip("matplotlib")
    from regard.bench.scaling import figure

    left, right = figure.draw(report()).axes
    assert [line.get_label() for line in left.lines][:2] == [
        "window(512), forward (1.05)",
        "window(512), forward and backward (1.05)",
    ]
    assert len(right.lines) == 4
    assert {ax.get_xscale() for ax in (left, right)} == {ax.get_yscale() for ax in (left, right)} == {"log"}
    assert left.lines[0].get_ydata()[0] == 1000  # milliseconds


def test_without_matplotlib_a_figure_is_refused_before_anything_is_timed(tmp_path: Path, monkeypatch):
    for name in ("regard.bench.scaling.figure", "regard.look.canvas", "regard.look.figures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(sys.modules["regard.look"], "canvas", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.setattr(measure, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(ImportError, match=r"pip install 'regard\[look\]'"):
        scaling.run(figure=tmp_path / "s.png")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threads": 0}, ValueError, "--threads: got 0; expected at least 1"),
        ({"figure": Path("nowhere", "s.png")}, FileNotFoundError, "--figure: the folder .*nowhere does not exist"),
        ({"figure": Path("s.txt")}, ValueError, r"--figure: got 's.txt'; expected a name that ends in \.png"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_timed(monkeypatch, options, error, words):
    monkeypatch.setattr(measure, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(error, match=words):
        scaling.run(**options)


@pytest.mark.parametrize(("power", "code"), [(1.0, 0), (1.2, 1)])
def test_the_command_hands_on_its_options_and_says_by_its_code_whether_all_bars_are_met(
    monkeypatch, capsys, power, code
):
    seen: dict[str, object] = {}
    monkeypatch.setattr(scaling, "run", lambda **options: seen.update(options) or report(power))
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", "--scaling", "--quick", "--threads", "1", "--json", "s.json", "--figure", "s.png"])
    assert left.value.code == code
    assert seen == {"quick": True, "threads": 1, "json": Path("s.json"), "figure": Path("s.png")}
    assert "window(512), forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("bench --scaling --only causal", "--only is for the cases; --scaling does not take it"),
        ("bench --scaling --repeats 3", "--repeats is for the cases; --scaling does not take it"),
        ("bench --figure s.png", "--figure draws what --scaling measures; give both"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, arguments: str, words: str):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments.split())
    assert left.value.code == 2
    assert words in capsys.readouterr().err
