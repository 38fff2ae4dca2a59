from __future__ import annotations

import sys

import pytest

from regard.bench import peers
from regard.bench.case import Disagreement, Missing
from regard.bench.machine import Machine
from regard.bench.progress import Progress
from regard.bench.runner import measure
from regard.bench.timing import interleave

# Compiling takes seconds; tried here is what does not.
QUICK = [name for name in peers.PEERS if name != "peer-flex"]
NEEDS = {"peer-x-transformers": "x_transformers", "peer-hf-eager": "transformers", "peer-hf-sdpa": "transformers"}


def duel(name: str):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return peers.peer_duel(name, 24, num_heads=2, width=8)


@pytest.mark.parametrize("name", QUICK)
def test_every_peer_agrees_and_can_be_timed_when_it_is_small(name: str):
    one = duel(name)
    assert "float64" in one.check()
    samples = interleave((one.subject, one.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def test_a_peer_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch):
    wrong = ("a wrong one", lambda query_len: lambda q, k, v: v)
    monkeypatch.setitem(peers.PEERS, "peer-sdpa", wrong)
    with pytest.raises(Disagreement, match="output of a wrong one, rows from 0: off by"):
        duel("peer-sdpa").check()


@pytest.mark.parametrize("name", NEEDS)
def test_a_peer_that_is_not_installed_gives_a_line_and_no_failure(monkeypatch: pytest.MonkeyPatch, name: str):
    for module in [module for module in sys.modules if module.partition(".")[0] == NEEDS[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    (case,) = [case for case in peers.CASES if case.name == name]
    machine = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11", "Linux x86_64", 100.0)
    result = measure(case, repeats=1, machine=machine, progress=Progress(1))
    assert result.verdict == "skipped"
    assert result.failed is None
    assert result.skipped is not None
    assert f"{NEEDS[name]} is not installed" in result.skipped
    assert "pip install 'regard[peers]'" in result.skipped


def test_without_a_compiler_flex_attention_is_skipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    with pytest.raises(Missing, match=r"compiled with g\+\+, which is not there"):
        duel("peer-flex")


def test_flex_attention_that_does_not_compile_is_skipped(monkeypatch: pytest.MonkeyPatch):
    def refuses(*given: object, **options: object) -> None:
        raise RuntimeError("no such header\nand much more")

    monkeypatch.setattr(peers.shutil, "which", lambda name: "g++")
    monkeypatch.setattr(peers.torch, "compile", lambda function: refuses)
    with pytest.raises(Missing, match=r"FlexAttention does not compile here: no such header$"):
        duel("peer-flex").check()
