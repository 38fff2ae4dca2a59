"""Models of regard's layers under FSDP2, alone and with heads cut over ranks: a step is that of one process."""

from __future__ import annotations

import pytest
from tests.distributed import asked_training

CASES = [
    ("decoder", "fsdp", False),
    ("decoder", "fsdp", True),
    ("layers", "fsdp", False),
    ("decoder", "both", True),
]


@pytest.mark.parametrize(("kind", "how", "checkpointing"), CASES)
def test_a_step_over_ranks_is_that_of_one_process(crew, kind, how, checkpointing):
    # A gradient that is 0 but for rounding would make a step of any size; there is none in these models.
    assert max(crew(asked_training.sharded_step, kind, how, checkpointing)) <= 1e-12
