"""Rotary: the formula in float64, its one property, offsets of any kind, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.positions.formulas import EPS, budget, plain, turned
from torch import Tensor

from regard.positions import DynamicNTK, LinearScaling, LongRoPE, NoPositions, Positions, Rotary

PAIRINGS = ("halves", "interleaved")
# Torch's own, where it loads what forward derivatives need.
QUIET = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def test_by_hand():
    # Width 4, base 100: the pairs turn by 1 and by 0.1 a position.
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    c, s, d, t = math.cos(3), math.sin(3), math.cos(0.3), math.sin(0.3)
    halves = [c - 3 * s, 2 * d - 4 * t, 3 * c + s, 4 * d + 2 * t]
    interleaved = [c - 2 * s, 2 * c + s, 3 * d - 4 * t, 4 * d + 3 * t]
    for pairing, wanted in zip(PAIRINGS, (halves, interleaved), strict=True):
        out = Rotary(4, base=100.0, pairing=pairing)(x, offset=3)
        assert (out - torch.tensor([wanted])).abs().max() <= budget(x)


def test_position_0_changes_nothing():
    x = torch.randn(2, 3, 1, 8)
    assert torch.equal(Rotary(8)(x), x)


@given(
    pairing=st.sampled_from(PAIRINGS),
    half=st.integers(1, 9),
    rest=st.integers(0, 3),
    offset=st.sampled_from([0, 1, 511, 65_530, 65_536, 1_000_000, 10_000_000, -1, -70_000]),
    length=st.integers(0, 9),
    lead=st.lists(st.integers(1, 3), max_size=3),
    base=st.floats(2, 1e6),
)
@settings(max_examples=60)
def test_the_formula_in_float64(pairing, half, rest, offset, length, lead, base):
    x = torch.randn(*lead, length, 2 * half + rest)
    rotary = Rotary(2 * half + rest, base=base, pairing=pairing, rotary_dim=2 * half)
    positions = torch.arange(offset, offset + length)
    out, want = rotary(x, offset=offset), turned(x, positions, plain(2 * half, base), pairing)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    if length:
        assert (out.double() - want).abs().max() <= budget(x)
    assert torch.equal(out[..., 2 * half :], x[..., 2 * half :])
    wide = rotary(x.double(), offset=offset)
    # In float64 an angle of 1e7 is off by 1e7 * 2^-53.
    torch.testing.assert_close(wide, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype, pairing):
    x = torch.randn(2, 3, 40, 16).to(dtype)
    out = Rotary(16, pairing=pairing)(x, offset=1000)
    want = turned(x, torch.arange(1000, 1040), plain(16), pairing)
    assert out.dtype == dtype
    # Half a unit in the last place of the answer, and what float32 does before.
    unit = torch.finfo(dtype).eps * want.abs() / 2 + torch.finfo(dtype).smallest_normal
    assert ((out.double() - want).abs() <= unit + budget(x)).all()


def test_half_precision_in_parts(monkeypatch):
    from regard.positions import rotation

    x = torch.randn(2, 3, 40, 16).bfloat16()
    whole = Rotary(16)(x)
    monkeypatch.setattr(rotation, "CHUNK", 7 * 2 * 3 * 16)
    assert torch.equal(Rotary(16)(x), whole)


@given(pairing=st.sampled_from(PAIRINGS), i=st.integers(0, 5000), j=st.integers(0, 5000), shift=st.integers(0, 60_000))
@settings(max_examples=30)
def test_a_product_depends_on_the_distance_alone(pairing, i, j, shift):
    q, k = torch.randn(2, 1, 32).unbind()
    rotary = Rotary(32, pairing=pairing)
    near, far = ((rotary(q, offset=i + n) * rotary(k, offset=j + n)).sum() for n in (0, shift))
    # Two products of 32 entries with an error of budget() each, and their sum.
    limit = 2 * 32 * budget(q) * float(k.abs().max()) + 2 * 32 * budget(k) * float(q.abs().max())
    assert abs(near - far) <= limit
    moved = (rotary(q, offset=i + 1) * rotary(k, offset=j)).sum()
    assert abs(moved - near) > limit  # another distance is another product


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_lengths_are_kept(pairing):
    x = torch.randn(3, 50, 16, dtype=torch.float64)
    out = Rotary(16, pairing=pairing)(x, offset=12345)
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), rtol=1e-14, atol=0)


def test_rotate_is_forward_of_each():
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 9, 8)
    rotary = Rotary(8)
    for where, start, key_start in (
        ({}, 0, 0),
        ({"offset": 4}, 4, 4),
        ({"offset": 4, "key_offset": 0}, 4, 0),
        (
            {"offset": torch.tensor([4, 7]), "key_offset": torch.tensor([0, 3])},
            torch.tensor([4, 7]),
            torch.tensor([0, 3]),
        ),
    ):
        out = rotary.rotate(q, k, **where)
        assert torch.equal(out[0], rotary(q, offset=start))
        assert torch.equal(out[1], rotary(k, offset=key_start))


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("lead", [(3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("length", [0, 1, 6])
def test_one_offset_for_each_sequence(pairing, lead, length):
    rotary, x = Rotary(8, pairing=pairing, rotary_dim=6), torch.randn(*lead, length, 8)
    starts = [0, 70_000, 7]
    out = rotary(x, offset=torch.tensor(starts))
    for b, start in enumerate(starts):
        want = turned(x[b], torch.arange(start, start + length), plain(6), pairing)
        assert out[b].shape == want.shape
        assert not length or (out[b].double() - want).abs().max() <= budget(x)
    near = rotary(x, offset=torch.tensor([0, 30, 7]))  # all of it in the table
    assert not length or (near[1] - rotary(x[1], offset=30)).abs().max() <= budget(x)


@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 5, 8), (2, 1, 3, 5, 8), (2, 0, 8)])
@pytest.mark.parametrize("offset", [torch.tensor(4), torch.tensor([4]), torch.tensor(4, dtype=torch.int32)])
def test_a_tensor_that_holds_one_offset(shape, offset):
    x = torch.randn(shape)
    assert torch.equal(Rotary(8)(x, offset=offset), Rotary(8)(x, offset=4))


def test_negative_offsets_are_positions_too():
    x = torch.randn(2, 1, 3, 8)
    out = Rotary(8)(x, offset=torch.tensor([-2, 0]))
    want = turned(x[0], torch.arange(-2, 1), plain(8))
    assert (out[0].double() - want).abs().max() <= budget(x)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "expanded", "odd start"])
def test_any_strides(pairing, layout):
    x = {
        "contiguous": lambda: torch.randn(2, 3, 5, 8),
        "transposed": lambda: torch.randn(2, 5, 3, 8).transpose(1, 2),
        "sliced": lambda: torch.randn(2, 3, 5, 17)[..., 3:11],
        "expanded": lambda: torch.randn(1, 1, 5, 8).expand(2, 3, 5, 8),
        "odd start": lambda: torch.randn(241)[1:].view(2, 3, 5, 8),
    }[layout]()
    before = x.clone()
    out = Rotary(8, pairing=pairing)(x, offset=2)
    assert torch.equal(x, before)
    assert torch.equal(out, Rotary(8, pairing=pairing)(before, offset=2))


@QUIET
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("length", [1, 9])  # few rows turn by another way
def test_gradients(pairing, length):
    rotary = Rotary(6, pairing=pairing, rotary_dim=4, scaling=LongRoPE([1.0] * 2, [2.0] * 2, 8, attention_factor=1.5))
    x = torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotary(x, offset=3), x)
    assert torch.autograd.gradgradcheck(lambda x: rotary(x, offset=3) ** 2, x)
    tangent = torch.func.jvp(lambda x: rotary(x, offset=3), (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, rotary(torch.ones_like(x), offset=3))
    mapped = torch.func.vmap(lambda x: rotary(x, offset=3))(x)
    torch.testing.assert_close(mapped, rotary(x, offset=3))


@QUIET
def test_a_forward_dual_keeps_its_tangent():
    import torch.autograd.forward_ad as forward

    x, t = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8)
    with forward.dual_level():
        out = Rotary(8)(forward.make_dual(x, t), offset=2)
        torch.testing.assert_close(forward.unpack_dual(out).tangent, Rotary(8)(t, offset=2))


def test_keys_that_hold_nothing_spoil_no_others():
    x = torch.randn(2, 6, 8)
    clean = Rotary(8)(x)
    x[0, 2], x[1, 5] = math.nan, math.inf
    out = Rotary(8)(x)
    kept = torch.ones(2, 6, dtype=torch.bool)
    kept[0, 2] = kept[1, 5] = False
    assert torch.equal(out[kept], clean[kept])


def test_the_length_of_each_sequence_decides_its_frequencies():
    x = torch.randn(2, 1, 3, 8)
    for scaling in (DynamicNTK(4.0, 10), LongRoPE([1.0] * 4, [1.0, 2.0, 3.0, 4.0], 10, attention_factor=1.0)):
        rotary = Rotary(8, scaling=scaling)
        out = rotary(x, offset=torch.tensor([2, 20]))
        for b, start in enumerate((2, 20)):
            want = turned(x[b], torch.arange(start, start + 3), scaling.frequencies(8, 10000.0, start + 3))
            assert (out[b].double() - want).abs().max() <= budget(x)
            assert torch.allclose(out[b], rotary(x[b], offset=start), rtol=0, atol=budget(x))
        given = rotary(x, offset=2, length=torch.tensor([5, 40]))
        assert torch.allclose(given[0], rotary(x[0], offset=2), rtol=0, atol=budget(x))
        want = turned(x[1], torch.arange(2, 5), scaling.frequencies(8, 10000.0, 40))
        assert (given[1].double() - want).abs().max() <= budget(x)
        assert (given[1] - given[0]).abs().max() > 0.01


def test_a_text_is_as_long_as_its_last_key():
    # A layer asks with no queries for the keys of a context, and with fewer queries than keys in other places.
    rotary, q, k = Rotary(8, scaling=DynamicNTK(4.0, 10)), torch.randn(2, 1, 0, 8), torch.randn(2, 1, 30, 8)
    for options in ({}, {"offset": torch.tensor([0, 0])}, {"offset": 5, "key_offset": torch.tensor([0, 0])}):
        assert torch.allclose(rotary.rotate(q, k, **options)[1], rotary(k), rtol=0, atol=budget(k))
    both = rotary.rotate(k[..., 28:, :], k, offset=28, key_offset=0)
    assert torch.allclose(both[0], both[1][..., 28:, :], rtol=0, atol=budget(k))


def test_what_positions_do_by_default():
    q, k = torch.randn(2, 3, 4)
    for positions in (Positions(), NoPositions()):
        out = positions.rotate(q, k, offset=3, key_offset=torch.tensor([1]), length=9)
        assert out[0] is q
        assert out[1] is k
        assert positions.bias(2, 3, num_heads=1, device=q.device, dtype=q.dtype) is None
        positions.check_layer(num_heads=4, num_kv_heads=2, head_dim=3)
        assert positions.state_dict() == {}


def test_repr():
    assert repr(Rotary(8)) == "Rotary(8)"
    shown = "Rotary(8, base=500000, pairing='interleaved', rotary_dim=4, scaling=LinearScaling(factor=2.0))"
    assert repr(Rotary(8, base=5e5, pairing="interleaved", rotary_dim=4, scaling=LinearScaling(2))) == shown


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 7}, ValueError, "dim must be an even number of at least 2, got 7; columns turn in pairs, or name how"),
        ({"dim": 0}, ValueError, "dim must be an even number of at least 2, got 0"),
        ({"dim": 8.0}, TypeError, "dim must be an integer, got float"),
        ({"rotary_dim": 3}, ValueError, "rotary_dim must be an even number of at least 2, got 3"),
        ({"rotary_dim": 10}, ValueError, "rotary_dim must be at most dim=8, the width of a head, got 10"),
        ({"rotary_dim": True}, TypeError, "rotary_dim must be an integer, got bool"),
        ({"base": 0}, ValueError, "base must be a positive finite number, got 0"),
        ({"base": math.nan}, ValueError, "base must be a positive finite number, got nan"),
        ({"pairing": "thirds"}, ValueError, "pairing must be 'halves' or 'interleaved', got 'thirds'"),
        ({"scaling": 4.0}, TypeError, r"scaling must be a scaling of regard.positions, such as LinearScaling\(4.0\)"),
        ({"scaling": "linear"}, TypeError, "or None, got str"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Rotary(**{"dim": 8, **arguments})


X = torch.zeros(2, 3, 4, 8)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X[..., :7], {}, ValueError, r"x must have shape \(..., L, D\) with D = dim = 8, got \(2, 3, 4, 7\)"),
        (X.flatten(-2), {}, ValueError, r"got \(2, 3, 32\); dim is the width of one head"),
        (X[0, 0, 0], {}, ValueError, r"x must have shape \(..., L, D\) with D = dim = 8, got \(8,\)"),
        (X.long(), {}, TypeError, "x must be a floating-point tensor, got int64"),
        ([1.0], {}, TypeError, "x must be a torch.Tensor, got list"),
        (X, {"offset": 1.0}, TypeError, "offset must be an integer or an integer tensor, got float"),
        (X, {"offset": torch.tensor(1.0)}, TypeError, "offset must be an integer or an integer tensor, got float32"),
        (X, {"offset": torch.tensor(True)}, TypeError, "offset must be an integer or an integer tensor, got bool"),
        (
            X,
            {"offset": torch.zeros(3).long()},
            ValueError,
            r"shape \(B,\) = \(2,\) beside x \(2, 3, 4, 8\), got \(3,\)",
        ),
        (X[0, 0], {"offset": torch.zeros(4).long()}, ValueError, r"expected shape \(\) or \(1,\) beside x \(4, 8\)"),
        (X, {"offset": torch.zeros(2, 1).long()}, ValueError, r"one for each sequence of x \(its first axis\)"),
        (X, {"length": 2.5}, TypeError, "length must be an integer or an integer tensor, got float"),
    ],
)
def test_bad_input(x: Tensor, options, error, message):
    with pytest.raises(error, match=message):
        Rotary(8)(x, **options)


def test_bad_keys():
    with pytest.raises(ValueError, match=r"k must have shape \(..., L, D\) with D = dim = 8"):
        Rotary(8).rotate(X, X[..., :4])
    with pytest.raises(ValueError, match=r"offset must be an integer, or one for each sequence of k"):
        Rotary(8).rotate(X, X[:1], offset=torch.tensor([1, 2]))


def test_layers_that_do_not_fit():
    Rotary(8).check_layer(num_heads=4, num_kv_heads=2, head_dim=8)
    with pytest.raises(ValueError, match=r"positions=Rotary\(8\): dim must be the width of one head, D .* = 16, got 8"):
        Rotary(8).check_layer(num_heads=4, num_kv_heads=2, head_dim=16)


@pytest.mark.parametrize("name", ["dim", "base", "pairing", "scaling", "rotary_dim"])
def test_what_decides_the_table_is_read_only(name):
    with pytest.raises(AttributeError, match=rf"Rotary.{name} is read-only; make another one: Rotary\(..., {name}="):
        setattr(Rotary(8), name, 4)


def test_eps_is_that_of_float32():
    assert EPS == 2**-23
