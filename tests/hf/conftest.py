"""The proof of all architectures takes minutes: it runs when `-m thorough` asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "thorough" in (config.option.markexpr or ""):
        return
    left = [item for item in items if HERE in item.path.parents and item.get_closest_marker("thorough")]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)
