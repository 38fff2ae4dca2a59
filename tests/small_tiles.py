"""Thresholds of the engine of tiles, so small that tiny problems take every path that long texts take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import strategies as st

from regard.engine import blocks, calls, plan, tiled, tiles, triangles

# Every threshold, with values on both sides of the sizes of tests/shapes.py; the usual ones of some are among them.
CHOICES: dict[tuple[Any, str], tuple[float, ...]] = {
    (plan, "SMALL"): (0,),
    (plan, "CALL"): (0,),
    (tiles, "FEWEST_ROWS"): (1, 4, 48),
    (tiles, "BLOCK_ROWS"): (4, 64),
    (tiles, "BLOCK_KEYS"): (2, 64),
    (calls, "FEW_ROWS"): (2, 4, 32),
    (calls, "SHORT_ROWS"): (0, 1024),
    (calls, "BAND_ROWS"): (1, 4, 32),
    (calls, "BOX_ROWS"): (3, 256),
    (calls, "WIDE"): (8, 1024),
    (triangles, "SMALLEST"): (1, 3, 48),
    (triangles, "GRAIN"): (1, 4),
    (blocks, "ELEMENTS_PER_THREAD"): (16, 1 << 20),
    (blocks, "SAFE_LSE"): (1.0, 40.0),
    (tiled, "GRADIENTS"): (20, 1 << 21),
}


@st.composite
def thresholds(draw: st.DrawFn) -> dict[tuple[Any, str], float]:
    return {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}


SMALLEST = {name: values[0] for name, values in CHOICES.items()}


@contextmanager
def engine_of(chosen: dict[tuple[Any, str], float]) -> Iterator[None]:
    """The engine with these thresholds; what it remembers of masks made with others is forgotten.

    On one thread: in problems as small as these, threads wait for each other and do little else.
    """
    threads = torch.get_num_threads()
    before = {(module, name): getattr(module, name) for module, name in chosen}
    try:
        for (module, name), value in chosen.items():
            setattr(module, name, value)
        plan._COMPILED.clear()
        torch.set_num_threads(1)
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
        plan._COMPILED.clear()
        torch.set_num_threads(threads)
