"""Rotary positions of pictures: rows turn one half, columns the other."""

from __future__ import annotations

import math

import pytest
import torch
from tests.positions.formulas import budget, plain, turned

from regard.positions import Rotary2d

PAIRINGS = ("halves", "interleaved")


def test_by_hand():
    # Width 4: pair 0 turns by 1 a row, pair 1 by 1 a column. Patch (1, 2) of a 2 x 3 picture is token 5.
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(6, 4)
    c, s, d, t = math.cos(1), math.sin(1), math.cos(2), math.sin(2)
    halves = torch.tensor([c - 3 * s, 2 * d - 4 * t, 3 * c + s, 4 * d + 2 * t])
    interleaved = torch.tensor([c - 2 * s, 2 * c + s, 3 * d - 4 * t, 4 * d + 3 * t])
    for pairing, wanted in zip(PAIRINGS, (halves, interleaved), strict=True):
        out = Rotary2d(4, grid=(2, 3), pairing=pairing)(x)
        assert (out[5] - wanted).abs().max() <= budget(x)
        assert torch.equal(out[0], x[0])


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (4, 1)])
def test_the_formula_in_float64(grid, pairing):
    rows, cols = grid
    x = torch.randn(2, 3, rows * cols, 16)
    frequencies = plain(8, 50.0)
    for token in range(rows * cols):
        row, col = divmod(token, cols)
        angles = torch.cat([row * frequencies, col * frequencies])  # a position of 1 turns by these
        want = turned(x[..., token, :], torch.ones(()), angles, pairing)
        got = Rotary2d(16, grid=grid, base=50.0, pairing=pairing)(x)[..., token, :]
        assert (got.double() - want).abs().max() <= budget(x)


def test_as_in_qwen2_vl():
    modeling = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    rows, cols = 4, 6
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), dim=-1).view(-1, 2)
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)  # its VisionRotaryEmbedding(head_dim // 2)
    angle = (place[..., None] * frequencies).flatten(1)  # (L, 8)
    embedding = torch.cat([angle, angle], dim=-1)
    q, k = torch.randn(rows * cols, 3, 16), torch.randn(rows * cols, 3, 16)
    want = modeling.apply_rotary_pos_emb_vision(q, k, embedding.cos(), embedding.sin())
    got = Rotary2d(16, grid=(rows, cols)).rotate(q.transpose(0, 1), k.transpose(0, 1))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.transpose(0, 1), theirs, rtol=0, atol=1e-5)


def test_a_product_depends_on_rows_and_columns_apart():
    q, k = torch.randn(2, 16, dtype=torch.float64).unbind()
    rotary = Rotary2d(16, grid=(5, 6))
    qs, ks = rotary.rotate(q.expand(30, 16), k.expand(30, 16))
    scores = (qs @ ks.mT).view(5, 6, 5, 6)
    for r in range(4):
        for c in range(5):
            torch.testing.assert_close(scores[r + 1, c + 1, 1:, 1:], scores[r, c, :-1, :-1])
    assert not torch.allclose(scores[0, 1], scores[1, 0])


def test_gradients_and_other_dtypes():
    rotary = Rotary2d(8, grid=(2, 2))
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotary, x)
    assert rotary(x.detach().bfloat16()).dtype == torch.bfloat16
    assert rotary(torch.zeros(2, 3, 0, 8)).shape == (2, 3, 0, 8)


def test_plot():
    pytest.importorskip("matplotlib")
    axes, bar = Rotary2d(8, grid=(3, 5)).plot().axes
    (image,) = axes.get_images()
    assert image.get_array().shape == (3, 5)
    assert image.get_array()[1, 2] == pytest.approx(1.0)  # the patch in the middle, with itself
    assert bar.get_ylabel() == "mean cosine of the angle to the middle"


def test_repr():
    assert repr(Rotary2d(8, grid=[2, 3])) == "Rotary2d(8, grid=(2, 3))"
    shown = "Rotary2d(8, grid=(2, 3), base=100, pairing='interleaved')"
    assert repr(Rotary2d(8, grid=(2, 3), base=100, pairing="interleaved")) == shown


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 6}, ValueError, "dim must be a multiple of 4, got 6; rows and columns have half of the pairs each"),
        ({"dim": 2}, ValueError, "dim must be at least 4, got 2; it is the width of one head"),
        ({"grid": 6}, TypeError, r"grid must be a pair \(rows, cols\), got 6"),
        ({"grid": (2, 3, 4)}, TypeError, r"grid must be a pair \(rows, cols\), got \(2, 3, 4\)"),
        (
            {"grid": (0, 3)},
            ValueError,
            r"grid must be at least 1, got 0; it is the rows and the columns, \(rows, cols\)",
        ),
        ({"base": -1}, ValueError, "base must be a positive finite number, got -1"),
        ({"pairing": None}, ValueError, "pairing must be 'halves' or 'interleaved', got None"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Rotary2d(**{"dim": 8, "grid": (2, 3), **options})


X = torch.zeros(2, 6, 8)


@pytest.mark.parametrize(
    ("k", "options", "error", "message"),
    [
        (X[:, :5], {}, ValueError, r"k must have L = rows \* cols = 2 \* 3 = 6 tokens .*, in row-major order, got 5"),
        (X[..., :4], {}, ValueError, r"k must have shape \(..., L, D\) with D = dim = 8, got \(2, 6, 4\)"),
        (X.long(), {}, TypeError, "k must be a floating-point tensor, got int64"),
        (
            X,
            {"offset": 1},
            ValueError,
            r"offset must be 0 with positions=Rotary2d\(8, grid=\(2, 3\)\): a picture is rea",
        ),
        (X, {"offset": torch.tensor(1)}, ValueError, "offset must be 0 with positions=Rotary2d"),
        (X, {"key_offset": 2}, ValueError, "key_offset must be 0 with positions=Rotary2d"),
    ],
)
def test_bad_input(k, options, error, message):
    with pytest.raises(error, match=message):
        Rotary2d(8, grid=(2, 3)).rotate(X, k, **options)


def test_layers_that_do_not_fit():
    Rotary2d(8, grid=(2, 3)).check_layer(num_heads=4, num_kv_heads=2, head_dim=8)
    with pytest.raises(ValueError, match=r"dim must be the width of one head, D = d_k / num_heads = 4, got 8"):
        Rotary2d(8, grid=(2, 3)).check_layer(num_heads=4, num_kv_heads=2, head_dim=4)


@pytest.mark.parametrize("name", ["dim", "base", "pairing", "grid"])
def test_what_decides_the_table_is_read_only(name):
    with pytest.raises(AttributeError, match=rf"Rotary2d.{name} is read-only; make another one"):
        setattr(Rotary2d(8, grid=(2, 3)), name, 4)
