from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

import regard
from regard.bench import cases, functions, layers, peers, questions, runner
from regard.bench import report as reporting
from regard.bench.case import Disagreement, Duel, Solo
from regard.bench.timing import interleave


def test_names_are_unique_and_every_case_but_the_peers_is_held_to_something():
    names = [case.name for case in cases.ALL]
    assert len(set(names)) == len(names)
    assert not set(names) & {case.group for case in cases.ALL if case.group != case.name}
    assert [case.group for case in cases.ALL if not case.bars] == ["peers"] * len(peers.CASES)


def test_the_table_fits_a_terminal_of_80_columns_without_the_quartiles():
    # case, regard, peer, ratio, memory, asked, verdict, and two blanks between them; times and ratios have 7 and 8.
    names = max(len(case.name) for case in cases.ALL)
    asked = max(len(reporting.limits(case)) for case in cases.ALL)
    assert names + 7 + 7 + 8 + 6 + asked + 7 + 6 * 2 <= 80


def test_select_takes_names_and_groups_in_the_order_of_the_table():
    assert cases.select() == cases.ALL
    assert [case.name for case in cases.select(["row", "causal"])] == ["causal", "row"]
    assert [case.name for case in cases.select(["weights"])] == ["entropy", "received", "pool", "topk", "row"]


def test_an_unknown_name_gives_near_ones():
    with pytest.raises(ValueError, match=r"--only: got 'entrophy'.*did you mean entropy\?"):
        cases.select(["entrophy"])
    with pytest.raises(ValueError, match=r"--only: got 'zzz'.*there are dense, causal"):
        cases.select(["zzz"])


def test_the_listing_names_every_case_and_its_bars():
    listing = cases.listing()
    assert len(listing.splitlines()) == len(cases.ALL)
    assert "entropy(), causal, L 8192: at most 1.3x, at most 300 MB" in listing


SMALL = {
    **{
        f"attention causal={causal} backward={backward}": lambda c=causal, b=backward: functions.attention_duel(
            48, num_heads=2, width=8, causal=c, backward=b
        )
        for causal in (False, True)
        for backward in (False, True)
    },
    "half": lambda: functions.attention_duel(48, num_heads=2, width=8, causal=True, dtype=torch.bfloat16),
    "values": lambda: functions.attention_duel(48, num_heads=2, width=8, value_width=4),
    "values backward": lambda: functions.attention_duel(48, num_heads=2, width=8, value_width=16, backward=True),
    "causal layer": lambda: layers.layer_duel("output", 2, 16, 32, 4, causal=True),
    "exercise": lambda: functions.exercise_duel(2, 5, 16, 4),
    **{
        name: lambda name=name: questions.question_duel(name, 512, num_heads=2, width=16)
        for name in questions.QUESTIONS
    },
    **{work: lambda work=work: layers.layer_duel(work, 2, 16, 32, 4) for work in layers.WORDS},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_case_agrees_and_can_be_timed_when_it_is_small(name: str):
    duel = SMALL[name]()
    assert isinstance(duel, Duel)
    assert "float64" in duel.check()
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def wrong(weights: regard.AttentionWeights, name: str):
    answer = {
        "entropy": weights.entropy,
        "received": weights.received,
        "pool": lambda: weights.pool(256, 256),
        "topk": lambda: weights.topk(questions.TOP),
        "row": lambda: weights[..., 511, :],
    }[name]()
    if name == "topk":
        return answer[0], answer[1].roll(1, dims=-1)
    return answer * (1 + 1e-3)


@pytest.mark.parametrize("name", questions.QUESTIONS)
def test_an_answer_that_is_slightly_wrong_is_refused(name: str):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 512, 16, generator=generator).unbind()
    weights = regard.attention(q, k, v, regard.masks.causal())[1]
    ask, check = questions.QUESTIONS[name](512)
    assert "float64" in check(ask(weights), q, k)
    with pytest.raises(Disagreement, match="off by"):
        check(wrong(weights, name), q, k)


def test_a_wrong_attention_is_refused(monkeypatch):
    duel = functions.attention_duel(48, num_heads=2, width=8, causal=True)
    right = regard.attention
    monkeypatch.setattr(regard, "attention", lambda q, k, v, mask=None: right(q, k, v))
    with pytest.raises(Disagreement, match="output: off by"):
        duel.check()


def test_a_causal_layer_that_sees_the_future_is_refused(monkeypatch):
    duel = layers.layer_duel("output", 2, 16, 32, 4, causal=True)
    monkeypatch.setattr(regard.masks, "causal", lambda: None)
    with pytest.raises(Disagreement, match="output: off by"):
        duel.check()


def test_a_causal_layer_is_asked_for_its_output_alone():
    with pytest.raises(ValueError, match="causal: got work='training'; expected 'output'"):
        layers.layer_duel("training", 2, 16, 32, 4, causal=True)


def test_the_import_is_a_solo_that_times_a_fresh_interpreter():
    (case,) = cases.select(["import"])
    solo = case.build()
    assert isinstance(solo, Solo)
    assert 0 < solo.sample() < 60


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"repeats": 0}, ValueError, "--repeats: got 0; expected at least 1"),
        ({"threads": -1}, ValueError, "--threads: got -1; expected at least 1"),
        ({"only": ["causl"]}, ValueError, "did you mean causal"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(monkeypatch, options, error, words):
    monkeypatch.setattr(runner, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(error, match=words):
        runner.run(**options)


def test_a_folder_that_does_not_exist_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(FileNotFoundError, match=r"--json: the folder .*nowhere does not exist"):
        runner.run(json=tmp_path / "nowhere" / "record.json")


def test_a_target_that_cannot_be_written_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(ValueError, match=rf"--json is {tmp_path}, but {tmp_path} is a folder; expected the name of a"):
        runner.run(json=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"--json is .*record.json, but {tmp_path}/file is a file; expected the name"):
        runner.run(json=tmp_path / "file" / "record.json")

    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(ValueError, match=rf"but {tmp_path} may not be written to \(Permission denied\); expected"):
        runner.run(json=tmp_path / "record.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_target_that_only_seems_writable_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(runner, "describe", lambda: pytest.fail("it began to measure"))
    with pytest.raises(ValueError, match=r"--json is /proc/x.json, but /proc may not be written to \("):
        runner.run(json=Path("/proc/x.json"))


def test_a_record_that_is_interrupted_leaves_the_old_one(monkeypatch, tmp_path):
    record = tmp_path / "record.json"
    record.write_text("old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    monkeypatch.setattr(runner, "describe", object)  # a record of no cases asks nothing of the machine
    monkeypatch.setattr(runner, "select", lambda only: ())
    monkeypatch.setattr("regard.bench.report.to_json", lambda report: "new")
    with pytest.raises(KeyboardInterrupt):
        runner.run(json=record)
    assert record.read_text() == "old"
    assert list(tmp_path.iterdir()) == [record]


def test_a_run_measures_writes_and_gives_the_threads_back(tmp_path, capsys):
    before = torch.get_num_threads()
    record = tmp_path / "record.json"
    report = runner.run(["exercise"], quick=True, threads=1, json=record)
    assert report.machine.threads == 1
    assert report.machine.peak > 0
    assert torch.get_num_threads() == before
    assert [result.case.name for result in report.results] == ["exercise"]
    assert report.results[0].samples == runner.QUICK_REPEATS
    assert '"name": "exercise"' in record.read_text()
    assert "[1/1] exercise" in capsys.readouterr().err
