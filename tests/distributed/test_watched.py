"""A watch records attention over several processes, and its statistics are those of one."""

from __future__ import annotations

import pytest
from tests.distributed import asked


@pytest.mark.parametrize("hold", ["reference", "copy"])
def test_a_watch_inside_the_context_sees_the_weights_of_the_whole(crew, hold):
    for found in crew(asked.on, 2, asked.watched, hold)[:2]:
        assert found.pop("name") == "0"
        assert found.pop("shape") == (asked.BATCH, 4, asked.LENGTH, asked.LENGTH)
        assert max(found.values()) <= 1e-12, found
