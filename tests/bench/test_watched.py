from __future__ import annotations

import pytest
import torch

import regard
from regard.bench import memory, watched
from regard.bench.case import Bar, Case, Disagreement, Measured, Missing, Solo
from regard.bench.machine import Machine
from regard.bench.progress import Progress
from regard.bench.runner import measure
from regard.bench.timing import interleave

SMALL = {"layers": 2, "width": 32, "num_heads": 4}
MACHINE = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11", "Linux x86_64", 100.0)


def timed(duel) -> bool:
    samples = interleave((duel.subject, duel.peer), repeats=1)
    return all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def test_a_small_model_is_watched_and_timed():
    duel = watched.watch_duel(24, **SMALL)
    assert duel.check() == "the output, bit for bit; 2 records"
    assert timed(duel)


def test_the_statistics_of_a_small_model_agree_with_eager():
    pytest.importorskip("transformers")
    duel = watched.statistics_duel(64, **SMALL)
    assert "against eager and against float64" in duel.check()
    assert timed(duel)


def test_a_statistic_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    duel = watched.statistics_duel(64, **SMALL)
    right = regard.AttentionWeights.ask
    monkeypatch.setattr(
        regard.AttentionWeights,
        "ask",
        lambda self, *questions: (right(self, "entropy")[0] * 1.01, *right(self, *questions)[1:]),
    )
    with pytest.raises(Disagreement, match=r"entropy of regard and of eager, layer 0: off by 0\.0"):
        duel.check()


def test_the_registered_function_agrees_and_is_timed():
    pytest.importorskip("transformers")
    duel = watched.registered_duel(24, **SMALL)
    assert "the output against sdpa's" in duel.check()
    assert timed(duel)


def test_without_transformers_the_cases_are_skipped(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Missing, match=r"transformers is not installed: pip install 'regard\[hf\]'"):
        watched.statistics_duel(64, **SMALL)


def test_a_long_run_can_be_made_short():
    solo = watched.long_run(64, **SMALL)
    assert solo.once
    assert solo.sample() > 0


def test_what_is_run_once_has_its_memory_from_the_same_run(monkeypatch: pytest.MonkeyPatch):
    from regard.bench import runner

    monkeypatch.setattr(runner, "once", lambda name, threads: (2.5, 12.0))
    case = Case("long", "watch", "what", lambda: Solo("a long one", lambda: 1.0, once=True), (Bar("memory", 10),))
    result = measure(case, repeats=3, machine=MACHINE, progress=Progress(1))
    assert (result.subject, result.memory, result.samples) == (("a long one", 2.5), 12.0, 1)
    assert result.verdict == "missed"


def test_a_process_of_its_own_runs_it_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from regard.bench import cases

    calls = []
    kept = []

    def sample() -> float:
        calls.append(1)
        kept.append(torch.ones(64 * 10**6, dtype=torch.uint8))
        return 0.5

    case = Case("long", "watch", "what", lambda: Solo("a long one", sample, once=True))
    monkeypatch.setattr(cases, "ALL", (case,))
    threads = torch.get_num_threads()
    memory._main("long", threads)
    assert calls == [1]
    assert '"seconds": 0.5' in capsys.readouterr().out


@pytest.mark.parametrize(("peer", "verdict"), [(500.0, "met"), (499.0, "missed"), (None, "missed")])
def test_a_bar_on_the_share_of_the_peers_memory(peer: float | None, verdict: str):
    held = Case("name", "group", "what", lambda: None, (Bar("share", 0.2),))
    assert Measured(held, memory=100.0, peer_memory=peer).verdict == verdict
    assert Bar("share", 0.2).describe() == "at most 0.2 of the memory"


def test_the_memory_of_the_peer_is_that_of_the_peer(monkeypatch: pytest.MonkeyPatch):
    from regard.bench import runner

    found = {"subject": 10.0, "peer": 90.0}
    monkeypatch.setattr(runner, "peak_extra_of_case", lambda name, threads, of="subject": found[of])
    case = Case("name", "group", "what", lambda: watched.watch_duel(8, **SMALL), (Bar("share", 0.2),), memory=True)
    result = measure(case, repeats=1, machine=MACHINE, progress=Progress(1))
    assert (result.memory, result.peer_memory) == (10.0, 90.0)
    assert result.verdict == "met"
