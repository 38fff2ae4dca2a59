"""examples/watch_models.py runs as a script, and what it prints of the models is what they did."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).parents[1] / "examples" / "watch_models.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("watch_models", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_vision_transformer_is_drawn(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    best = example.see_vision(tmp_path, steps=2)
    assert 0 < best < 0.2  # untrained, it looks nowhere in particular
    assert (tmp_path / "vision.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Seen: 2 attention calls" in printed
    assert "200 x 4 x 65 x 65" in printed


@pytest.mark.slow
def test_a_trained_one_looks_at_the_shape(example: ModuleType, tmp_path: Path):
    assert example.see_vision(tmp_path, steps=100) > 0.5


def test_the_encoder_reads_no_padding(example: ModuleType, capsys: pytest.CaptureFixture[str]):
    example.see_encoder()
    printed = capsys.readouterr().out
    assert "layers.2.self_attn" in printed
    assert "weight on padding: 0.0" in printed


def test_shapes_are_where_the_example_says(example: ModuleType):
    picture, kind, place = example.images(50, torch.Generator().manual_seed(3))
    patches = picture.unfold(2, 4, 4).unfold(3, 4, 4).abs().mean((-1, -2)).flatten(1)  # (B, 64)
    assert torch.equal(patches.argmax(-1), place)
    assert set(kind.tolist()) == {0, 1}
