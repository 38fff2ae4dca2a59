"""The example of a watched training, for a few steps, and what the page on it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from regard.watch.log_history import History

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "watch_training.py"
PAGE = ROOT / "docs" / "training.md"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watch_training", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_few_steps(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = example.main(["--steps", "5", "--every", "2", "--out", str(tmp_path)])
    assert log.history.steps == History.read(tmp_path / "attention.csv").steps == [0, 2, 4]
    assert log.history[0].names == [f"blocks.{n}.attention" for n in range(4)]
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    losses = [float(loss) for loss in re.findall(r"([\d.]+) nats a byte", capsys.readouterr().out)]
    assert losses[0] == pytest.approx(5.5, abs=0.5)  # log 256, and what an untrained head adds
    assert losses[-1] < losses[0] - 0.5


def test_a_second_run_replaces_the_file(example: ModuleType, tmp_path: Path):
    for steps in ("3", "1"):
        example.main(["--steps", steps, "--every", "1", "--out", str(tmp_path)])
    assert History.read(tmp_path / "attention.csv").steps == [0]


@pytest.mark.parametrize("flag", ["--steps", "--every"])
def test_none_of_it_is_refused(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str):
    with pytest.raises(SystemExit):
        example.main([flag, "0", "--out", str(tmp_path)])
    assert f"argument {flag}: 0 is not at least 1" in capsys.readouterr().err


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    # What a reader has: a model, batches, and nothing else.
    layer = torch.nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=16, batch_first=True)
    model = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 2))
    names = {"model": model, "loader": torch.randn(6, 2, 5, 16), "torch": torch}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert History.read("runs/attention.csv").steps == [0]
