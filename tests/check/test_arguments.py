"""A wrong argument of regard.check() is told by its name, with what came and what was expected, before a call."""

from __future__ import annotations

import pytest
import torch

import regard

WRONG: list[tuple[dict, type[Exception], str]] = [
    ({"subject": 3}, TypeError, "subject must be a function, a module or a class, got int"),
    ({"contract": {"mask": "deny"}}, TypeError, "contract must be a regard.check.Contract or None, got dict"),
    ({"sizes": 3}, TypeError, "sizes must be a regard.check.Sizes or None, got int"),
    (
        {"sizes": regard.check.Sizes(heads=4, kv_heads=3)},
        ValueError,
        "sizes: heads must be a multiple of kv_heads, got 4 and 3",
    ),
    ({"only": "Masks"}, TypeError, "only must be a list of names, got 'Masks'; write only=['Masks']"),
    ({"only": ["Maks"]}, ValueError, "only: the suite attention has no property 'Maks'; did you mean Masks?"),
    ({"suite": "rotation"}, ValueError, "suite: there is no 'rotation'; known: attention, positions, rotary"),
    ({"dtype": torch.int64}, ValueError, "dtype must be one of torch.float16, torch.bfloat16, torch.float32, "),
    ({"device": "meta"}, ValueError, "device: 'meta' cannot be used here: "),
    ({"device": "gpu"}, ValueError, "device: 'gpu' cannot be used here: "),
    ({"seed": 0.5}, TypeError, "seed must be a whole number, got float"),
    ({"seed": -1}, ValueError, "seed must be from 0 to 2147483648, got -1"),
    ({"seconds": 0}, ValueError, "seconds must be a number above 0, got 0"),
    ({"memory_mb": 0}, ValueError, "memory_mb must be a whole number above 0, or None for no limit, got 0"),
    ({"expected": ["Masks"]}, TypeError, "expected must be a mapping from properties to reasons, got list"),
    ({"expected": {"mask": "why"}}, ValueError, "expected: there is no property 'mask'; "),
    ({"expected": {"mask_polarity": " "}}, ValueError, "expected: 'mask_polarity' needs a reason, in words"),
]


@pytest.mark.parametrize(("given", "error", "said"), WRONG, ids=[str(given) for given, _, _ in WRONG])
def test_a_wrong_argument_is_named_before_anything_runs(given, error, said):
    called: list[int] = []

    def subject(q, k, v):
        called.append(1)

    with pytest.raises(error) as raised:
        regard.check(**({"subject": subject} | given))
    assert str(raised.value).startswith(said)
    assert not called
