"""What every test and doctest starts from: the same seed, the same hypothesis examples, no device it does not have."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Wall-clock limits of single examples fail on a busy machine; random examples fail for somebody else than their author.
# `HYPOTHESIS_PROFILE=explore pytest` looks further.
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "thorough" not in (config.option.markexpr or ""):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run it by hand: pytest -m thorough"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    # Modules and tests are here to stay: who collects garbage, as every training of transformers does, need not look
    # at a million objects of theirs again.
    gc.collect()
    gc.freeze()
