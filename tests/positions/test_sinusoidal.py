from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import PositionalEncoding

# Half the distance between two float32 near 1: what rounding a sine that was computed in float64 may change.
ROUNDING = 2**-25 + 1e-15


def exact(position: int, column: int, d_model: int, base: float = 10000.0) -> float:
    """One entry of the table, in Python's floats."""
    angle = position / base ** ((column - column % 2) / d_model)
    return math.cos(angle) if column % 2 else math.sin(angle)


def test_numbers_of_the_exercise():
    embeddings = 0.1 * torch.arange(1, 129).expand(3, 10, 128)
    encoded = PositionalEncoding(128, 50)(embeddings)
    wanted = "1.4000 1.0479 0.2396 -0.4558 -0.5485 0.0267 0.8648 1.3756 1.1994 0.4603"
    for sequence in encoded:
        assert " ".join(f"{x:.4f}" for x in sequence[:, 3].tolist()) == wanted


def test_by_hand():
    # Width 2 has one wavelength: the angle is the position itself.
    wanted = torch.tensor([[0.0, 1.0], [math.sin(1), math.cos(1)], [math.sin(2), math.cos(2)]])
    assert torch.equal(PositionalEncoding(2, 3).get_encoding(), wanted)


@given(d_model=st.integers(1, 33), max_len=st.integers(1, 60), base=st.floats(2, 1e6))
def test_every_entry_is_the_formula_in_float64_rounded_once(d_model: int, max_len: int, base: float):
    table = PositionalEncoding(d_model, max_len, base=base).get_encoding()
    assert table.shape == (max_len, d_model)
    assert table.dtype == torch.float32
    wanted = [[exact(p, c, d_model, base) for c in range(d_model)] for p in range(max_len)]
    assert (table.double() - torch.tensor(wanted, dtype=torch.float64)).abs().max() <= ROUNDING


def test_large_positions_are_exact():
    table = PositionalEncoding(16, 100_001).get_encoding()
    rows = [65_535, 99_991, 100_000]
    wanted = torch.tensor([[exact(p, c, 16) for c in range(16)] for p in rows], dtype=torch.float64)
    assert (table[rows].double() - wanted).abs().max() <= ROUNDING
    # The same in float32 is off by more than that a thousand times over, so the test above can fail.
    angle = torch.tensor(rows)[:, None] / 10000.0 ** (torch.arange(0, 16, 2) / 16)
    assert (angle.sin().double() - wanted[:, 0::2]).abs().max() > 1000 * ROUNDING


@given(d_model=st.integers(1, 24), shift=st.integers(0, 50))
def test_a_shift_is_a_rotation_of_each_pair(d_model: int, shift: int):
    # What the paper chose sines for: PE[p + k] is a linear function of PE[p], the same for every p.
    table = PositionalEncoding(2 * d_model, 100).get_encoding().double()
    sines, cosines = table[:, 0::2], table[:, 1::2]
    a, b = sines[shift], cosines[shift]
    early_sines, early_cosines = sines[: 100 - shift], cosines[: 100 - shift]
    # Every entry is off by 2^-25 at most, and a sum of two products holds four of them.
    torch.testing.assert_close(sines[shift:], early_sines * b + early_cosines * a, rtol=0, atol=2e-7)
    torch.testing.assert_close(cosines[shift:], early_cosines * b - early_sines * a, rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_table_stays_float32_when_the_module_is_converted(dtype: torch.dtype):
    positions = PositionalEncoding(6, 3000)
    table = positions.get_encoding()
    positions.to(dtype)
    assert positions.encoding.dtype == torch.float32
    assert torch.equal(positions.get_encoding(), table)
    out = positions(torch.zeros(1, 6, dtype=dtype), offset=2999)
    assert out.dtype == dtype
    assert torch.equal(out, table[2999:].to(dtype))


def test_a_module_made_on_the_meta_device_has_its_table_when_it_arrives():
    with torch.device("meta"):
        positions = PositionalEncoding(6, 30)
    assert positions.encoding.is_meta
    assert torch.equal(positions.to_empty(device="cpu").get_encoding(), PositionalEncoding(6, 30).get_encoding())


def test_the_table_is_no_state():
    assert PositionalEncoding(4, 10).state_dict() == {}
    assert list(PositionalEncoding(4, 10).parameters()) == []
    PositionalEncoding(4, 10).load_state_dict(PositionalEncoding(4, 99).state_dict())


def test_what_is_handed_out_is_a_copy():
    positions = PositionalEncoding(4, 10)
    positions.get_encoding().zero_()
    assert positions(torch.zeros(10, 4)).abs().sum() > 0


@given(start=st.integers(0, 20), length=st.integers(0, 12), lead=st.lists(st.integers(1, 3), max_size=3))
def test_an_offset_is_the_same_as_the_whole_sequence_cut(start: int, length: int, lead: list[int]):
    torch.manual_seed(0)
    positions = PositionalEncoding(5, 32)
    x = torch.randn(*lead, 32, 5)
    part = x[..., start : start + length, :]
    assert torch.equal(positions(part, offset=start), positions(x)[..., start : start + length, :])
    assert torch.equal(positions(part, offset=torch.tensor(start)), positions(part, offset=start))


def test_one_offset_for_each_sequence():
    positions, x = PositionalEncoding(5, 32), torch.randn(3, 2, 5)
    out = positions(x, offset=torch.tensor([0, 30, 7]))
    for b, start in enumerate([0, 30, 7]):
        assert torch.equal(out[b], positions(x[b], offset=start))


def test_the_input_is_not_written_to_and_gets_its_gradient():
    x = torch.randn(2, 3, 4, requires_grad=True)
    before = x.detach().clone()
    out = PositionalEncoding(4, 3, dropout=0.5).eval()(x)
    assert torch.equal(x, before)
    out.backward(torch.full_like(out, 2.0))
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def test_dropout_in_training_only():
    positions = PositionalEncoding(64, 64, dropout=0.25)
    x = torch.full((64, 64), 3.0)
    full = PositionalEncoding(64, 64)(x)
    out = positions(x)
    dropped = out == 0
    assert 0.2 < dropped.float().mean() < 0.3  # 4096 draws: the deviation is 0.007
    torch.testing.assert_close(out[~dropped], full[~dropped] / 0.75)
    assert torch.equal(positions.eval()(x), full)
    assert (positions.train()(x) == 0).any()


def test_plot():
    pytest.importorskip("matplotlib")
    figure = PositionalEncoding(32, 64).plot()
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Embedding Dimension", "Position in Sequence")
    assert bar.get_ylabel() == "Encoding values"
    (image,) = axes.get_images()
    assert image.get_cmap().name == "viridis"
    assert image.get_array().shape == (64, 32)


def test_plot_on_axes_that_are_given():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    assert PositionalEncoding(3, 4).plot(axes) is figure
    assert axes.get_images()


def test_repr():
    shown = "PositionalEncoding(d_model=3, max_len=4, dropout=0.1, base=10000)"
    assert repr(PositionalEncoding(3, 4, dropout=0.1)) == shown


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"d_model": 0}, ValueError, "d_model must be at least 1, got 0"),
        ({"d_model": 2.0}, TypeError, "d_model must be an integer, got float"),
        ({"max_len": -1}, ValueError, "max_len must be at least 1, got -1"),
        ({"max_len": True}, TypeError, "max_len must be an integer, got bool"),
        ({"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\], got 1.5"),
        ({"base": 0}, ValueError, "base must be a positive finite number, got 0; the paper's is 10000"),
        ({"base": "e"}, TypeError, "base must be a number, got str"),
    ],
)
def test_bad_arguments(arguments: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        PositionalEncoding(**{"d_model": 4, "max_len": 8, **arguments})


@pytest.mark.parametrize(
    ("x", "offset", "error", "message"),
    [
        (
            torch.zeros(9, 4),
            0,
            ValueError,
            r"offset \+ L = 0 \+ 9 = 9 are past the limit max_len=8; make the table longer",
        ),
        (torch.zeros(2, 4), 7, ValueError, r"7 \+ 2 = 9 are past the limit max_len=8"),
        (torch.zeros(2, 1, 4), torch.tensor([1, 8]), ValueError, r"8 \+ 1 = 9 are past the limit max_len=8"),
        (torch.zeros(1, 4), -1, ValueError, "offset must be at least 0, got -1"),
        (torch.zeros(2, 1, 4), torch.tensor([0, -3]), ValueError, "offset must be at least 0, got -3"),
        (torch.zeros(1, 4), 1.0, TypeError, "offset must be an integer or an integer tensor, got float"),
        (
            torch.zeros(1, 4),
            torch.tensor(1.0),
            TypeError,
            "offset must be an integer or an integer tensor, got float32",
        ),
        (torch.zeros(2, 1, 4), torch.tensor([1, 2, 3]), ValueError, r"expected shape \(2,\), got \(3,\)"),
        (torch.zeros(1, 5), 0, ValueError, r"x must have shape \(..., L, d_model\) with d_model=4, got \(1, 5\)"),
        (torch.zeros(4), 0, ValueError, r"x must have shape \(..., L, d_model\) with d_model=4, got \(4,\)"),
        (torch.zeros(1, 4).long(), 0, TypeError, "x must be a floating-point tensor of embeddings, got int64"),
        ([[0.0] * 4], 0, TypeError, "x must be a floating-point tensor of embeddings, got list"),
        (torch.zeros(1, 4, device="meta"), 0, ValueError, "x must be on the module's device cpu, got meta"),
    ],
)
def test_bad_input(x: object, offset: object, error: type, message: str):
    with pytest.raises(error, match=message):
        PositionalEncoding(4, 8)(x, offset=offset)


def test_sizes_and_offset_may_be_integers_of_numpy():
    np = pytest.importorskip("numpy")
    positions, x = PositionalEncoding(np.int64(8), np.int32(10)), torch.zeros(2, 8)
    assert (type(positions.d_model), type(positions.max_len)) == (int, int)
    assert torch.equal(positions.get_encoding(), PositionalEncoding(8, 10).get_encoding())
    assert torch.equal(positions(x, offset=np.int64(3)), positions(x, offset=3))
    with pytest.raises(TypeError, match="offset must be an integer or an integer tensor, got bool"):
        positions(x, offset=True)
