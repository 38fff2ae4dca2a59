"""A look by several processes gives the page of one, and they end together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.processes import Crew
from tests.look import looking

LOOK = ["-m", "regard", "look", "--string", "to be or not to be", "--no-figures"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(3)
    yield crew
    crew.close()


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread each, as torchrun sets it: sums in another order differ in the last place.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}  # seconds
    return subprocess.run([sys.executable, *arguments], env=environment, check=False, **options)


def test_the_page_of_two_processes_is_that_of_one(model_folder: Path, tmp_path: Path) -> None:
    asked = [*LOOK, "--model", str(model_folder), "--out"]
    one, two = ended(*asked, str(tmp_path / "one")), ended(*TORCHRUN, *asked, str(tmp_path / "two"))
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert two.stdout == one.stdout.replace(str(tmp_path / "one"), str(tmp_path / "two"))  # printed once
    assert (tmp_path / "two" / "page.html").read_bytes() == (tmp_path / "one" / "page.html").read_bytes()


def test_an_error_is_said_once_and_nothing_is_written(tmp_path: Path) -> None:
    found = ended(*TORCHRUN, *LOOK, "--layer", "99", "--out", str(tmp_path / "out"))
    assert found.returncode != 0
    assert found.stderr.count("error: --layer is 99, but the model has") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("count", "first"), [(7, [0, 3, 6]), (2, [0]), (0, [])])
def test_things_are_done_in_turn_and_come_back_in_order(crew: Crew, count: int, first: list[int]) -> None:
    found = crew(looking.shared, count)
    assert found[0][0] == first
    assert sorted(n for mine, _ in found for n in mine) == list(range(count))
    for _, everything in found:
        assert everything == [10 * n for n in range(count)]


@pytest.mark.parametrize(
    ("where", "when", "said"),
    [
        (1, "before", "ValueError: rank 1: there is no such model"),
        (0, "before", "ValueError: there is no such model"),
        (2, "after", "ValueError: rank 2: the disk is full"),
        (0, "after", "OSError: the disk is full"),
    ],
)
def test_what_makes_one_fail_ends_all_and_rank_0_says_it(crew: Crew, where: int, when: str, said: str) -> None:
    assert crew(looking.failing, where, when) == [said, "exit 2", "exit 2"]


def test_rank_0_that_cannot_write_ends_all(crew: Crew, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = crew(looking.looked, tmp_path / "file", str(model_folder), None)
    assert found[0].startswith("ValueError: --out is ")
    assert found[1:] == ["exit 2", "exit 2"]


def test_standard_input_is_refused(crew: Crew, tmp_path: Path) -> None:
    found = crew(looking.looked, tmp_path / "out", "demo", "-")
    assert found[0] == "ValueError: text is -, standard input, which 3 processes cannot share; give a file"
    assert not (tmp_path / "out").exists()


def test_weights_of_a_cut_text_are_refused_by_name(crew: Crew) -> None:
    for said in crew(looking.sharded):
        assert said.startswith("weights are of a text that is cut over ranks, which no page is made of; ask them for")
