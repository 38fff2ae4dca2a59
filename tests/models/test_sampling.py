from __future__ import annotations

import pytest
import torch

from regard.models.sampling import check_sampling, choose

#: Probabilities 0.5, 0.3, 0.15, 0.05, in another order.
PROBABILITIES = torch.tensor([0.15, 0.5, 0.05, 0.3])
MANY = 4000


def shares(**options: object) -> list[float]:
    rows = PROBABILITIES.log().expand(MANY, 4)
    drawn = choose(rows, generator=torch.Generator().manual_seed(0), **options)
    return [(drawn == token).float().mean().item() for token in range(4)]


# A share of 4000 draws is off by more than 0.04, five standard deviations, once in a million runs; the seed is fixed.
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"temperature": 1.0}, [0.15, 0.5, 0.05, 0.3]),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"temperature": 1.0, "top_k": 9}, [0.15, 0.5, 0.05, 0.3]),
        ({"temperature": 1.0, "top_p": 0.4}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.6}, [0, 0.625, 0, 0.375]),
        ({"temperature": 1.0, "top_p": 1.0}, [0.15, 0.5, 0.05, 0.3]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, [0, 0.625, 0, 0.375]),
        # Squares of the probabilities: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
        ({"temperature": 0.5}, [0.0616, 0.6849, 0.0068, 0.2466]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 1e-30}, [0, 1, 0, 0]),
        ({"temperature": 1e-50}, [0, 1, 0, 0]),  # 0 in float32
    ],
)
def test_shares_are_those_of_the_formula(options: dict, wanted: list[float]):
    assert shares(**options) == pytest.approx(wanted, abs=0.04)


def test_equal_scores_at_the_end_of_top_k_are_all_drawn_from():
    drawn = choose(torch.zeros(200, 3), temperature=1.0, top_k=1, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1, 2}


def test_half_precision_is_drawn_from_in_float32():
    logits = torch.tensor([[0.0, 60000.0]], dtype=torch.float16)
    assert choose(logits, temperature=0.01, generator=torch.Generator().manual_seed(0)).tolist() == [1]


def test_a_generator_decides():
    rows = PROBABILITIES.log().expand(50, 4)
    first, again, other = (
        choose(rows, temperature=1.0, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": -1.0}, ValueError, r"temperature must be a finite number of at least 0, got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be a finite number of at least 0, got nan"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number, got str"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_k": 2.0}, TypeError, "top_k must be an integer, got float"),
        ({"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, ValueError, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"top_p": True}, TypeError, "top_p must be a number, got bool"),
        ({"temperature": 0, "top_k": 3}, ValueError, "temperature=0 draws none; pass temperature=1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        check_sampling(**({"temperature": 1.0, "top_k": None, "top_p": None} | options))
