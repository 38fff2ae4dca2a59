"""What docs/scale.md shows is run on two processes, and its tables are those of the recorded run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.distributed.processes import Crew
from tests.test_readme import blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "docs" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown() -> dict[str, Any]:
    """What the page's Python leaves behind, and the same on one process."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "scale"}
    for block in blocks(PAGE):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, "docs/scale.md", "exec"), names)
    layer, x = names["layer"], names["x"]
    truth, weights = layer(x, need_weights=True)
    grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    truth.square().sum().backward()
    return {
        "world": dist.get_world_size(),
        "output": (names["whole"] - truth).abs().max().item(),
        "gradients": max((a - p.grad).abs().max().item() for a, p in zip(grads, layer.parameters(), strict=True)),
        "received": (names["received"] - weights.received()).abs().max().item(),
        "cells": (names["cells"] - weights.pool(8, 8)).abs().max().item(),
        "seen": (names["seen"][0].weights.received() - weights.received()).abs().max().item(),
        "entropy": tuple(names["entropy"].shape),
    }


def test_the_pages_python_runs_on_two_processes():
    crew = Crew(2)
    try:
        for found in crew(shown):
            assert found.pop("world") == 2
            assert found.pop("entropy") == (2, 4, 16)
            assert found.pop("gradients") <= 1e-4  # float32 sums over 64 tokens of squares
            assert max(found.values()) <= 1e-5, found
    finally:
        crew.close()


def test_the_tables_are_those_of_the_recorded_run(scale):
    assert scale.filled(PAGE) == PAGE, "run docs/scale.py"
    assert all(f"<!-- scale: {name} -->" in PAGE for name in ("speed", "memory", "bytes", "model"))


def test_the_recorded_run_sent_what_is_counted_and_shares_the_memory(scale):
    run = json.loads(scale.RECORD.read_text(encoding="utf-8"))
    rows = run["bytes"]["rows"]
    assert {(row["way"], row["world"]) for row in rows} == {(w, n) for w in ("ring", "gather", "heads") for n in (2, 4)}
    assert all(row["sent"] == row["counted"] for row in rows)
    memory = run["memory"]["mb"]
    assert all(memory[str(n)] * n / memory["1"] <= 1.15 for n in (2, 4))
    assert len(run["speed"]["seconds"]["zigzag"]) >= 5


def test_a_missed_bar_is_said_in_the_text(scale):
    run = json.loads(scale.RECORD.read_text(encoding="utf-8"))
    missed = "zigzag is 1.10 times as fast as contiguous, 1.25 were asked"
    assert f"**Missed**: {missed}." in scale.tables({**run, "missed": [missed]})["speed"]
