from __future__ import annotations

import pytest

import regard
from regard.bench import decode
from regard.bench.case import Disagreement
from regard.bench.timing import interleave


@pytest.mark.parametrize("peer", ["torch", "read"])
def test_a_small_cache_agrees_and_can_be_timed(peer: decode.Peer):
    duel = decode.decode_duel(peer, 40, num_heads=6, num_kv_heads=2, width=8)
    assert "every head against float64" in duel.check()
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def test_heads_that_read_the_wrong_group_are_refused(monkeypatch: pytest.MonkeyPatch):
    right = regard.attention
    duel = decode.decode_duel("torch", 40, num_heads=6, num_kv_heads=2, width=8)
    monkeypatch.setattr(regard, "attention", lambda q, k, v: right(q, k.flip(1), v.flip(1)))
    with pytest.raises(Disagreement, match=r"output of regard\.attention: off by"):
        duel.check()
