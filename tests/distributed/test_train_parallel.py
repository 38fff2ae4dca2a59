"""examples/train_parallel.py: its losses are those of one process, its bytes those that it predicts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tests.distributed import asked_training

STEPS, BATCH, LENGTH = 4, 4, 64


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Of the model without anything of torch.distributed, on whole texts."""
    example = asked_training.example()
    model = example.model_of("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for step in range(STEPS):
        inputs, targets = example.texts(step, BATCH, LENGTH)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("data", "context", "strategy", "order"),
    [(2, 2, "ring", "zigzag"), (1, 4, "gather", "contiguous"), (2, 2, "heads", "zigzag"), (4, 1, "ring", "zigzag")],
)
def test_losses_and_bytes(crew, losses, data, context, strategy, order):
    options = {"steps": STEPS, "batch": BATCH, "length": LENGTH}
    options |= {"data": data, "context": context, "strategy": strategy, "order": order}
    found = crew(asked_training.example_trained, options)
    assert losses[-1] < losses[0] - 0.5
    for mine, printed in found:
        assert mine == pytest.approx(losses, abs=1e-5)
        assert not printed or printed == found[0][1]
    told = re.search(r"a step: (\d+) predicted", found[0][1])
    sent = re.findall(r"(\d+) bytes sent", found[0][1])
    assert sent == [told[1]] * STEPS
    assert (told[1] == "0") == (context == 1)


def test_the_plan_says_who_holds_what(crew):
    options = {"steps": 0, "batch": 4, "length": 64, "data": 2, "context": 2, "strategy": "ring", "order": "zigzag"}
    printed = crew(asked_training.example_trained, options)[0][1].splitlines()
    assert printed[0] == "mesh: data 2 x context 2, zigzag, keys and values by ring"
    assert printed[1] == "rank 0: texts 0:2, tokens 0:16 and 48:64 of 64"
    assert printed[4] == "rank 3: texts 2:4, tokens 16:32 and 32:48 of 64"


def test_what_does_not_fit_is_refused(monkeypatch, capsys):
    example = asked_training.example()
    monkeypatch.setenv("WORLD_SIZE", "4")
    given = example.parsed([])
    assert (given.data, given.context) == (2, 2)
    assert example.parsed(["--data", "1"]).context == 4
    for arguments, said in (
        (["--data", "3"], "--data 3 times --context 1 must be the 4 processes there are"),
        (["--context", "0"], "--context must be at least 1, got 0"),
        (["--context", "-2", "--data", "-2"], "--context must be at least 1, got -2"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--batch", "3"], "--batch must be a multiple of --data 2, got 3"),
    ):
        with pytest.raises(SystemExit):
            example.parsed(arguments)
        assert said in capsys.readouterr().err


@pytest.mark.thorough
def test_by_torchrun(losses):
    script = ["--nproc-per-node", "4", asked_training.example().__file__]
    command = [sys.executable, "-m", "torch.distributed.run", *script, "--steps", str(STEPS), "--length", str(LENGTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110)
    found = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert found == pytest.approx(losses, abs=1e-5)
