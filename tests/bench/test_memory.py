from __future__ import annotations

import sys

import pytest
import torch

from regard.bench.memory import peak_extra, peak_extra_of_case

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MB = 10**6


def touch(megabytes: int) -> torch.Tensor:
    return torch.ones(megabytes * MB, dtype=torch.uint8)


@linux
def test_memory_that_is_freed_again_within_the_call_counts():
    def call() -> None:
        for _ in range(3):
            touch(64)

    assert 60 <= peak_extra(call) <= 80


@linux
def test_memory_from_before_the_call_does_not_count():
    kept = touch(96)
    touch(200)  # a peak that has passed
    assert peak_extra(lambda: None) <= 8
    assert kept.sum() == 96 * MB


@linux
def test_what_the_call_returns_counts():
    assert 60 <= peak_extra(lambda: touch(64)) <= 80


def test_a_process_that_fails_says_why():
    with pytest.raises(
        RuntimeError, match="measuring the memory of 'nothing' failed: ValueError: --only: got 'nothing'"
    ):
        peak_extra_of_case("nothing", threads=1)
