"""Learned positions: rows added to embeddings."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from regard.positions import LearnedPositions


def test_by_hand():
    positions = LearnedPositions(3, 2)
    positions.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert positions(torch.ones(2, 2), offset=1).tolist() == [[4.0, 5.0], [6.0, 7.0]]
    out = positions(torch.zeros(2, 1, 2), offset=torch.tensor([2, 0]))
    assert out.tolist() == [[[5.0, 6.0]], [[1.0, 2.0]]]
    for offset in (torch.tensor(1), 1):
        assert torch.equal(positions(torch.zeros(2, 1, 2), offset=offset), torch.tensor([[[3.0, 4.0]]] * 2))


def test_gradient_reaches_the_rows_that_were_used():
    positions = LearnedPositions(5, 2)
    positions(torch.zeros(2, 2, 2), offset=torch.tensor([0, 1])).sum().backward()
    assert positions.weight.grad.tolist() == [[1, 1], [2, 2], [1, 1], [0, 0], [0, 0]]


def test_start_dtype_and_device():
    assert 0.018 < LearnedPositions(100, 100).weight.std() < 0.022  # 10,000 draws: off by 0.00014
    half = LearnedPositions(3, 2, dtype=torch.bfloat16)
    assert half.weight.dtype == torch.bfloat16
    assert half(torch.zeros(3, 2)).dtype == torch.float32
    assert LearnedPositions(3, 2, device="meta")(torch.zeros(1, 2, device="meta")).is_meta


def test_under_fake_tensors_as_with_real_ones():
    with FakeTensorMode():
        out = LearnedPositions(8, 2)(torch.zeros(2, 3, 2), offset=torch.tensor([0, 1]))
        assert out.shape == (2, 3, 2)
    with torch.device("meta"):
        assert LearnedPositions(8, 2)(torch.zeros(2, 3, 2), offset=torch.tensor([0, 1])).is_meta


def test_plot():
    pytest.importorskip("matplotlib")
    figure = LearnedPositions(8, 4).plot()
    assert figure.axes[0].get_images()[0].get_array().shape == (8, 4)


def test_repr():
    assert repr(LearnedPositions(8, 4)) == "LearnedPositions(max_len=8, d_model=4)"


@pytest.mark.parametrize(
    ("x", "offset", "error", "message"),
    [
        (torch.zeros(3, 4), 6, ValueError, r"make the table longer: LearnedPositions\(max_len=9, d_model\)"),
        (torch.zeros(2, 3, 4), torch.tensor([0, 6]), ValueError, r"6 \+ 3 = 9 are past the limit max_len=8"),
        (torch.zeros(3, 4), -1, ValueError, "offset must be at least 0, got -1"),
        (torch.zeros(2, 3, 4), torch.tensor([0, -1]), ValueError, "offset must be at least 0, got -1"),
        (
            torch.zeros(2, 3, 4),
            torch.tensor([0.0]),
            TypeError,
            "offset must be an integer or an integer tensor, got flo",
        ),
        (torch.zeros(3, 5), 0, ValueError, r"x must have shape \(..., L, d_model\) with d_model=4, got \(3, 5\)"),
    ],
)
def test_bad_input(x, offset, error, message):
    with pytest.raises(error, match=message):
        LearnedPositions(8, 4)(x, offset=offset)


def test_bad_sizes():
    with pytest.raises(ValueError, match="max_len must be at least 1, got 0"):
        LearnedPositions(0, 4)
    with pytest.raises(TypeError, match="d_model must be an integer, got float"):
        LearnedPositions(4, 4.0)
