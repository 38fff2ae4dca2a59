"""How encodings are found out about: arguments, axes, conventions; and what is said where that fails."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from tests.check.positions import right_tables, right_turns
from torch import Tensor, nn

import regard
from regard.check.adapt import CannotAdapt, adapt
from regard.check.adapt.rotation import RotarySubject
from regard.check.adapt.table import TableSubject
from regard.check.contract import Contract
from regard.check.golden import angle_budget, rotate, sinusoid
from regard.check.properties import positions as tables
from regard.check.properties import rotary as turns
from regard.check.registry import _REGISTERED, Property
from regard.check.violation import Unsupported, Violation


def table(subject: object, **options: object) -> TableSubject:
    found = adapt(subject, suite="positions", **options)
    assert isinstance(found, TableSubject)
    return found


def rotary(subject: object, **options: object) -> RotarySubject:
    found = adapt(subject, suite="rotary", **options)
    assert isinstance(found, RotarySubject)
    return found


# -- the definitions ---------------------------------------------------------------------------------------------------


def test_the_golden_table_is_the_paper_s_by_hand():
    assert torch.equal(sinusoid(torch.tensor([0]), 4), torch.tensor([[0.0, 1, 0, 1]], dtype=torch.float64))
    want = [np.sin(3), np.cos(3), np.sin(0.03), np.cos(0.03)]
    torch.testing.assert_close(sinusoid(torch.tensor([3]), 4)[0], torch.tensor(want), rtol=0, atol=1e-15)
    halves = [want[0], want[2], want[1], want[3]]
    torch.testing.assert_close(
        sinusoid(torch.tensor([3]), 4, convention="halves")[0], torch.tensor(halves), rtol=0, atol=1e-15
    )


def test_the_golden_table_is_regard_s():
    got = regard.PositionalEncoding(17, 3000).get_encoding()
    assert (got.double() - sinusoid(torch.arange(3000), 17)).abs().max() < 2**-24


def test_a_golden_rotation_is_undone_by_its_inverse():
    x = torch.randn(5, 6, dtype=torch.float64)
    for pairing in ("halves", "interleaved"):
        at = torch.tensor([0, 1, 7, 1000, 99_999])
        back = rotate(rotate(x, at, pairing=pairing), -at, pairing=pairing)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


def test_the_budget_of_angles_is_met_three_times_over_by_float32():
    # exp and log, a power and a division: the three ways in which people compute frequencies.
    at = torch.arange(50_000)
    for d in (6, 16, 64):
        even = torch.arange(0, d, 2).float()
        for inverse in (torch.exp(even * (-np.log(10000.0) / d)), 10000.0 ** (-even / d), 1 / 10000 ** (even / d)):
            off = ((at[:, None] * inverse).sin().double() - sinusoid(at, d)[:, 0::2]).abs()
            assert (off <= angle_budget(at) / 2.5).all()


# -- sinusoidal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "way", "adds", "layout"),
    [
        ("regard", "get_encoding", True, "BLE"),
        ("tutorial", "sum", True, "LBE"),
        ("annotated", "sum", True, "BLE"),
        ("arrays", "call", False, "BLE"),
        ("frozen", "weight", False, None),
    ],
)
def test_how_a_table_is_had(name: str, way: str, adds: bool, layout: str | None):
    subject = table(right_tables.RIGHT[name])
    assert (subject.way, subject.adds) == (way, adds)
    assert layout in (None, subject.layout)


def test_what_was_found_is_said():
    assert table(right_tables.Tutorial).notes == ["x is (L, B, d): positions along its first axis"]
    assert table(right_tables.Annotated).notes == ["x is multiplied by sqrt(d) before the table is added"]
    (note,) = table(right_tables.concatenated).notes
    assert note == "all sines, then all cosines; the paper has sine in even columns, cosine in odd ones"
    assert "Whisper" in table(right_tables.whisper).notes[0]
    assert table(regard.PositionalEncoding).notes == []


def test_length_and_width_by_name_or_by_what_comes_back():
    g = right_tables.arrays
    forms = [
        lambda length, width: g(length, width),
        lambda d_model, max_len: g(max_len, d_model),
        lambda a, b: g(a, b),
        lambda a, b: g(b, a),
        lambda pos, d_model: g(len(pos), d_model),
    ]
    for form in forms:
        tables.check_table_formula(table(form))


def test_a_partial_is_a_function():
    tables.check_table_formula(functools.partial(right_tables.whisper, max_timescale=10000))


def test_an_instance_is_left_alone():
    own = right_tables.Tutorial(16, dropout=0.5, max_len=60)
    before = {name: t.clone() for name, t in own.state_dict().items()}
    tables.check_table_half(own)
    tables.check_table_is_added(own)
    assert own.training
    assert all(torch.equal(t, before[name]) for name, t in own.state_dict().items())
    assert own.pe.dtype == torch.float32


def test_a_layout_that_is_declared_is_verified():
    tables.check_table_same_in_each_sequence(right_tables.Tutorial)
    with pytest.raises(Violation, match="sequence 1 beside that of sequence 0"):
        tables.check_table_same_in_each_sequence(table(right_tables.Tutorial, contract=Contract(layout="BLE")))


def test_float32_angles_are_a_note_and_float64_ones_are_none():
    subject = table(right_tables.Annotated)
    tables.check_table_far(subject)
    assert [note for note in subject.notes if note.startswith("angles in float32: off by")]
    exact = table(regard.PositionalEncoding)
    tables.check_table_far(exact)
    assert exact.notes == []


def test_a_refused_odd_width_is_skipped_with_its_reason():
    def even(length, width):
        if width % 2:
            raise ValueError("even widths only")
        return right_tables.arrays(length, width)

    with pytest.raises(Unsupported, match="odd widths are refused: ValueError: even widths only"):
        tables.check_table_odd_width(even)


@pytest.mark.parametrize(
    ("prop", "subject", "reason"),
    [
        (tables.check_table_is_added, right_tables.arrays, "it returns a table and adds it to nothing"),
        (tables.check_table_odd_width, regard.PositionalEncoding(16, 50), "its width, 16, is its own"),
        (tables.check_table_far, regard.PositionalEncoding(16, 50), "its table ends at position 49"),
        (tables.check_table_too_long, right_tables.Grows, "it has no number of positions to exceed"),
        (turns.check_rotary_keys_as_queries, right_turns.llama, "it turns one tensor a call"),
        (turns.check_rotary_offset, right_turns.llama, "it takes no positions and no offset"),
        (turns.check_rotary_odd_width, right_turns.Cached(8), "its width, 8, is its own"),
        (turns.check_rotary_instances, right_turns.Cached(8), "it is not made for a base"),
    ],
)
def test_reasons_to_skip(prop, subject: object, reason: str):
    with pytest.raises(Unsupported, match=reason):
        prop(subject)


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (lambda length, width: None, "no table was found"),
        (lambda length, width: torch.zeros(width, length, 2), r"shape \(12, 24, 2\)"),
        (object(), "no table was found"),
    ],
)
def test_what_is_no_table(subject: object, says: str):
    with pytest.raises(CannotAdapt, match=says):
        table(subject)


class NeedsColour(nn.Module):
    def __init__(self, d_model, colour):
        super().__init__()


def test_an_argument_that_says_nothing_is_named():
    with pytest.raises(CannotAdapt, match=r"NeedsColour\(colour=\): no value for it is known"):
        table(NeedsColour)
    with pytest.raises(CannotAdapt, match=r"\(colour=\): what it is for is not known"):
        rotary(lambda x, colour: x)


# -- rotary ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", right_turns.RIGHT)
def test_the_convention_of_a_rotation_is_found(name: str):
    assert rotary(right_turns.RIGHT[name]).notes[0] == right_turns.NOTES[name]


@pytest.mark.parametrize(
    ("name", "layout", "shifts", "both"),
    [
        ("llama", "BLHD", "", False),
        ("llama, applied", "BLHD", "tables", True),
        ("hugging face, applied", "BHLD", "tables", True),
        ("halves", "BHLD", "positions", True),
        ("plain", "BHLD", "offset", False),
        ("single", "LD", "positions", False),
    ],
)
def test_how_a_rotation_is_asked_for(name: str, layout: str, shifts: str, both: bool):
    subject = rotary(right_turns.RIGHT[name])
    assert (subject.layout, subject.shifts, subject.both) == (layout, shifts, both)


def test_a_base_of_100_may_be_an_exponent_without_its_two():
    assert "the exponent is i/D" in " ".join(rotary(right_turns.single).notes).replace("its exponent", "the exponent")


def test_a_base_that_is_stated_is_held_to():
    def turned(x: Tensor, base: float = 10000.0) -> Tensor:
        return rotate(x, torch.arange(x.shape[-2]), base=base / 10).to(x.dtype)

    with pytest.raises(Violation, match=r"x turned, .*, base 10000: off by"):
        turns.check_rotary_angles(turned)


def test_what_returns_cosines_and_sines_is_sent_on():
    class Embedding(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return torch.ones(x.shape[-2], self.dim), torch.zeros(x.shape[-2], self.dim)

    with pytest.raises(CannotAdapt, match="Where it returns cosines and sines, check the function that applies them"):
        rotary(Embedding)


def test_the_call_is_spelled_as_its_user_writes_it():
    subject = rotary(right_turns.Plain)
    request = subject.make(subject.sizes, 3)
    assert subject.spell(request) == "Plain(dim=8, max_seq_len=64).rotate_queries_or_keys(t=q)"
    assert request.code[0] == "g = torch.Generator().manual_seed(3)"
    one = table(right_tables.width_first)
    assert one.spell(one.table_of(5, 6)) == "width_first(n=5, d=6)"
    tutorial = table(right_tables.Tutorial)
    spelled = tutorial.spell(tutorial.make(tutorial.sizes, 0))
    assert spelled == "Tutorial(d_model=12, dropout=0.0, max_len=64)(q[:, 0].transpose(0, 1))"


def test_a_violation_says_where_and_what():
    with pytest.raises(
        Violation, match=r"pair 1 of 6 turns by 0\.3162 .* expected 10000\^\(-2/12\) = 0\.2154"
    ) as raised:
        tables.check_table_wavelengths(lambda length, width: sinusoid(torch.arange(length), width, base=1000.0))
    assert raised.value.request is not None
    with pytest.raises(Violation, match=r"x in bfloat16 gives float32"):
        turns.check_rotary_half(
            lambda x: rotate(x, torch.arange(x.shape[-2])).to(torch.promote_types(x.dtype, torch.float32))
        )


# -- the registry ------------------------------------------------------------------------------------------------------


def registered(suite: str) -> list[Property]:
    return [prop for prop in _REGISTERED.values() if prop.suite == suite]


@pytest.mark.parametrize(("suite", "module"), [("positions", tables), ("rotary", turns)])
def test_every_property_says_what_must_hold_and_what_it_catches(suite: str, module):
    found = registered(suite)
    assert sorted(f"check_{prop.name}" for prop in found) == sorted(module.__all__)
    for prop in found:
        assert prop.says.endswith(".")
        assert len(prop.bug) > 40
        assert set(prop.rows) <= {30, 31, 32, 33}
    assert any(prop.essential for prop in found)


# -- what misbehaves ---------------------------------------------------------------------------------------------------


def nothing_but_nan(x: Tensor, offset: int = 0) -> Tensor:
    return x * torch.nan


def raises_later(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    if q.shape[-2] > 20:
        raise KeyError("twenty")
    return q, k


def nan_table(length, width):
    return np.full((length, width), np.nan)


@pytest.mark.parametrize(
    ("suite", "module", "subject"),
    [
        ("rotary", turns, nothing_but_nan),
        ("rotary", turns, raises_later),
        ("rotary", turns, lambda x: x),
        ("positions", tables, nan_table),
        ("positions", tables, lambda x: x + torch.nan),
        ("positions", tables, lambda x: x),
        ("positions", tables, nn.Linear(12, 12)),
    ],
)
def test_whatever_comes_back_a_property_holds_fails_or_does_not_apply(suite: str, module, subject: object):
    adapted = adapt(subject, suite=suite)

    def fails(name: str) -> bool:
        try:
            getattr(module, name)(adapted)
        except Violation:
            return True
        except Unsupported:
            pass
        return False

    assert sum(map(fails, module.__all__))  # each of them is asked
