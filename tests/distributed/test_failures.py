"""A rank that ends, or does not answer: every other one ends with an error that names it, and none hangs."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.distributed.processes import Crew

from regard import masks
from regard.distributed import context_parallel, failures

TIMEOUT = timedelta(seconds=5)


def attend_without(lost: int, how: str, strategy: str) -> str:
    """One attention of everybody, and a second one which ``lost`` ends in, or does not take part in."""
    parallel = context_parallel(strategy=strategy)
    q = torch.randn(1, 6, 8, 8, requires_grad=True)
    parallel.attention(q, q, q, masks.causal())
    out, _ = parallel.attention(q, q, q, masks.causal())
    if parallel.rank == lost:
        if how == "ends":
            os._exit(3)
        return "did not take part"
    start = time.monotonic()
    try:
        out.sum().backward()
    except RuntimeError as error:
        assert time.monotonic() - start < TIMEOUT.total_seconds() + 10
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(("lost", "how", "strategy"), [(2, "ends", "ring"), (1, "ends", "gather")])
def test_every_other_rank_names_the_one_that_ended(lost, how, strategy):
    found = answers(lost, how, strategy)
    assert found[lost] == ("died", 3)
    for rank, (kind, said) in enumerate(found):
        if rank != lost:
            assert kind == "returned"
            named = f"PeerError: rank {rank} of 3: rank {lost} did not answer: it ended, or took longer"
            assert said.startswith(named), said


def test_a_rank_that_does_not_answer_ends_the_others_in_time():
    found = answers(1, "stays away", "ring")
    assert found[1] == ("returned", "did not take part")
    for rank in (0, 2):
        assert found[rank][1].startswith(f"PeerError: rank {rank} of 3: rank "), found[rank]
        assert "did not answer" in found[rank][1]


def found_by(rank: int, peer: int | None, marks: list[int], folder: str) -> str:
    """What a rank of three says that has lost its connection to ``peer``, where ``marks`` have given up before."""
    store = dist.FileStore(f"{folder}/store", 1)
    key = "regard/lost/some"
    for other in marks:
        store.set(f"{key}/{other}", "here")
    return str(failures._named(store, key, rank, 3, peer))


def test_a_neighbour_that_only_gave_up_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "GRACE", 0.0)
    monkeypatch.setattr(failures, "PATIENCE", 0.2)
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    assert found_by(1, 2, [], str(tmp_path / "a")) == "2"
    assert found_by(0, 1, [1], str(tmp_path / "b")) == "2"  # rank 1 has left a mark, and rank 2 none
    assert found_by(0, None, [2], str(tmp_path / "c")) == "1"
    assert found_by(0, 1, [1, 2], str(tmp_path / "d")) == "None"


def answers(*args: Any) -> list[tuple[str, Any]]:
    crew = Crew(3, TIMEOUT)
    try:
        return crew.answers(attend_without, *args)
    finally:
        crew.close()
