"""Four processes for all tests of this folder: groups of one and two are among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.distributed.processes import Crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.close()
