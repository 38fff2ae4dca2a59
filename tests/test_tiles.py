"""attention() over tiles: the definition, forward and backward, whatever the mask, the sizes and the paths taken."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import intervention_properties, properties
from tests.mask_strategies import masked
from tests.shapes import Shape, numbers, shapes
from tests.small_tiles import SMALLEST, engine_of, thresholds
from tests.strategies import HALVES, LAYOUTS, Case, examples, options, strided
from torch.autograd import gradcheck

import regard
from regard import masks
from regard.engine import plan


@st.composite
def tiled_cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float64,)) -> Case:
    """A masked problem that has a fused op, of any expression to depth 4."""
    shape, dtype, generator = draw(shapes()), draw(st.sampled_from(dtypes)), numbers(draw)
    sizes = (*shape.rows, shape.width), (*shape.keys, shape.width), (*shape.keys, shape.value_width)
    q, k, v = (strided(s, draw(st.sampled_from(LAYOUTS)), generator, dtype) for s in sizes)
    mask, four = draw(masked(shape, depth=4))
    chosen = draw(options(shape, dtype, generator))
    chosen.pop("softcap", None)
    return Case(shape, q, k, v, mask, four.reshape(shape.scores), chosen)


class Seen:
    """How many of the examples of a property ran over tiles, and in which ways."""

    def __init__(self) -> None:
        self.examples = self.tiled = self.repeated = 0
        self.kinds: set[str] = set()

    def count(self, case: Case) -> None:
        used = case.run(regard.attention)[1].plan
        self.examples += 1
        self.tiled += bool(used.units)
        if used.units:
            self.kinds |= {tile.kind for tile in used.tiles}
            self.repeated += any(tile.count > 1 for tile in used.tiles)

    def check(self) -> None:
        # What has too many pieces, and a bias of -inf, are looked at instead: about half of the examples.
        assert self.tiled > self.examples * 0.3, vars(self)
        assert self.kinds == {"full", "causal", "band", "anticausal", "partial"}, self.kinds
        assert self.repeated, "no tile repeats"


def test_output_and_lse_are_those_of_the_definition():
    seen = Seen()

    @examples(300)
    @given(tiled_cases(), thresholds())
    def property_holds(case, chosen):
        with engine_of(chosen):
            properties.matches_the_definition(regard.attention, case)
            seen.count(case)

    property_holds()
    seen.check()


def test_gradients_are_those_of_the_definition():
    seen = Seen()

    @examples(300)
    @given(tiled_cases(), thresholds(), st.booleans())
    def property_holds(case, chosen, through_lse):
        with engine_of(chosen):
            properties.gradients_match_the_definition(regard.attention, case, through_lse=through_lse)
            seen.count(case)

    property_holds()
    seen.check()


@examples(150)
@given(tiled_cases(dtypes=(torch.float32, *HALVES)), thresholds())
def test_lower_precision_is_within_its_budget(case, chosen):
    with engine_of(chosen):
        properties.matches_the_definition(regard.attention, case)


MASKS = {
    "causal": masks.causal(),
    "window": masks.window(20),
    "wide window": masks.window(100),
    "band": masks.band(30, 9),
    "documents": masks.causal() & masks.documents(torch.arange(256) // 16),
    "prefix": masks.prefix(30) | masks.causal(),
    "not": ~masks.causal() | masks.window(5),
    "sink and window": masks.prefix(4) | masks.window(40),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MASKS)
def test_half_precision_is_within_budget(name, dtype):
    shape = Shape((2,), 4, 2, 256, 256, 16, 16)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, h, 256, 16, generator=generator).to(dtype) for h in (4, 2, 2))
    allowed = MASKS[name].to_dense(256).expand(2, 4, 256, 256)
    with engine_of({(plan, "SMALL"): 0}):
        case = Case(shape, q, k, v, MASKS[name], allowed)
        assert case.run(regard.attention)[1].plan.units
        properties.half_precision_is_within_budget(regard.attention, case)


def test_large_scores_take_the_fused_op_and_stay_exact():
    shape = Shape((1,), 2, 2, 200, 200, 8, 8)
    for name, mask in (
        ("window", masks.window(20)),
        ("documents", masks.causal() & masks.documents(torch.arange(200) // 40)),
    ):
        q, k, v = properties.problem(1, 2, query_len=200, key_len=200)
        q[:, :, 60:110] *= 200  # whole numbers, so that scores of a thousand, past exp's 709, are exact
        case = Case(shape, q.round(), k.round(), v, mask, mask.to_dense(200), {"scale": 1.0})
        with engine_of({(plan, "SMALL"): 0}):
            assert case.run(regard.attention)[1].plan.units, name
            properties.matches_the_definition(regard.attention, case)
            properties.gradients_match_the_definition(regard.attention, case, through_lse=True)


# Who reads whom, by moving inputs: the properties of test_interventions.py on every path of tiles.

USUAL = {(plan, "SMALL"): 0, (plan, "CALL"): 0}


@pytest.fixture(params=[SMALLEST, USUAL], ids=["smallest", "usual"])
def over_tiles(request) -> Iterator[None]:
    with engine_of(request.param):
        yield


def tiled(*args, **more):
    """regard.attention(), and that it ran over tiles."""
    output, weights = regard.attention(*args, **more)
    assert weights.plan.units, weights.plan
    return output, weights


WAYS = {
    "plain": {},
    "sinks": {"sinks": torch.tensor([0.5, -0.5], dtype=torch.float64)},
    "bias": {"bias": torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]},
}
way = pytest.mark.parametrize("options", [pytest.param(o, id=name) for name, o in WAYS.items()])


@pytest.mark.parametrize(("query_len", "key_len"), [(5, 5), (3, 8), (8, 3), (1, 6), (40, 45)])
def test_last_query_sees_every_key(over_tiles, query_len, key_len):
    intervention_properties.last_query_sees_every_key(tiled, query_len, key_len)


@pytest.mark.parametrize("key_len", [9, 12, 6])
@way
def test_the_future_changes_nothing(over_tiles, key_len, options):
    intervention_properties.the_future_changes_nothing(tiled, 9, key_len, **options)


@pytest.mark.parametrize("query_len", [130, 600])
def test_the_future_changes_nothing_across_tiles(query_len):
    with engine_of(USUAL):
        intervention_properties.the_future_changes_nothing(tiled, query_len, 700)


@way
def test_padding_changes_nothing(over_tiles, options):
    intervention_properties.padding_changes_nothing(tiled, torch.tensor([4, 0, 11]), 9, 11, **options)


EXACT = {
    "window": masks.window(3),
    "band": masks.band(2, 1),
    "causal & prefix": masks.causal() & masks.prefix(5),
    "prefix | causal": masks.prefix(2) | masks.causal(),
    "not": ~masks.causal(),
    "documents": masks.documents(torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 3, 3])),
    "valid": masks.padding(torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 1, 0]).bool()),
    "a tensor": masks.dense(torch.tensor([[1, 0, 0, 1, 1, 0, 1, 1, 0, 0]] * 6 + [[0] * 10] * 3).bool()),
}


@pytest.mark.parametrize("name", EXACT)
@way
def test_exactly_what_a_mask_allows_is_read(over_tiles, name, options):
    intervention_properties.reads_exactly(tiled, EXACT[name], EXACT[name].to_dense(9, 10), **options)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38], ids=str)
@pytest.mark.parametrize(
    ("mask", "query_len", "key_len"),
    [
        (masks.padding(torch.tensor([4, 0])), 9, 7),
        (masks.causal() & masks.padding(torch.tensor([2, 7])), 9, 7),
        (masks.window(2), 9, 12),
        (masks.causal(offset=-2), 9, 9),
        (masks.prefix(3), 9, 7),
        (masks.padding(torch.tensor([1, 1, 0, 1, 0, 0, 1]).bool()) & masks.causal(), 9, 7),
        (masks.documents(torch.tensor([0, 0, 1, 1, 1, 2, 2])) & ~masks.causal(), 9, 7),
    ],
    ids=["padding", "causal & padding", "window", "causal from row 2", "prefix", "holes", "the rest of a document"],
)
@way
def test_unread_keys_leave_no_trace(over_tiles, mask, query_len, key_len, poison, options):
    intervention_properties.unread_keys_leave_no_trace(tiled, mask, query_len, key_len, poison, **options)


@pytest.mark.parametrize(
    ("mask", "query_len", "key_len"),
    [
        (masks.causal(), 9, 5),
        (masks.causal(offset=-1), 9, 9),
        (masks.window(2), 9, 4),
        (masks.padding(torch.tensor(0)), 9, 4),
        (masks.dense(torch.arange(9)[:, None] % 2 == torch.zeros(6, dtype=torch.long)), 9, 6),
    ],
    ids=["causal, L > S", "causal from row 1", "window, L > S", "all padding", "every other row"],
)
@way
def test_empty_rows_follow_the_contract(over_tiles, mask, query_len, key_len, options):
    intervention_properties.empty_rows_follow_the_contract(tiled, mask, query_len, key_len, **options)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 3), (3, 1)])
@pytest.mark.parametrize("mask", [masks.causal(), masks.window(3), masks.padding(torch.tensor([4]))], ids=repr)
def test_grouped_heads_are_interleaved(over_tiles, heads, kv_heads, mask):
    intervention_properties.grouped_heads_are_interleaved(tiled, heads, kv_heads, mask)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", [masks.causal(), masks.window(3), ~masks.causal()], ids=repr)
def test_strides_do_not_matter(over_tiles, layout, mask):
    properties.strides_do_not_matter(tiled, layout, mask)


def by_lengths(part: slice) -> masks.Mask:
    return masks.padding(torch.tensor([9, 3, 5])[part])


def by_documents(part: slice) -> masks.Mask:
    return masks.causal() & masks.documents((torch.arange(9) // torch.tensor([[2], [3], [5]]))[part])


@pytest.mark.parametrize(
    "mask", [by_lengths, by_documents, lambda part: masks.window(4)], ids=["padding", "documents", "window"]
)
def test_sequences_are_independent(over_tiles, mask):
    intervention_properties.sequences_are_independent(tiled, mask)


GENERATOR = torch.Generator().manual_seed(0)
BASIC = {
    "causal": masks.causal(),
    "window": masks.window(2),
    "band": masks.band(1, 2),
    "padding": masks.padding(torch.tensor([4])),
    "valid": masks.padding(torch.tensor([1, 1, 0, 1, 1]).bool()),
    "documents": masks.documents(torch.tensor([0, 0, 1, 1, 1])),
    "prefix": masks.prefix(2),
    "where": masks.where(lambda b, h, q, kv: (q + kv + h) % 3 > 0),
    "dense": masks.dense(torch.rand(4, 5, generator=GENERATOR) > 0.4),
}
ALGEBRA = {
    **BASIC,
    **{f"~{name}": ~mask for name, mask in BASIC.items()},
    **{f"causal & {name}": masks.causal() & mask for name, mask in BASIC.items()},
    **{f"window | {name}": masks.window(1) | mask for name, mask in BASIC.items()},
    "all of it": (masks.prefix(1) | masks.window(2))
    & ~masks.dense(torch.eye(4, 5).bool())
    & masks.padding(torch.tensor([4])),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_gradcheck_over_the_algebra(name):
    torch.manual_seed(5)
    q, k, v = (
        torch.randn(1, h, n, d, dtype=torch.float64, requires_grad=True)
        for h, n, d in ((2, 4, 2), (1, 5, 2), (1, 5, 1))
    )

    def function(q, k, v):
        output, weights = tiled(q, k, v, ALGEBRA[name])
        return output, weights.lse[torch.isfinite(weights.lse)]

    with engine_of(SMALLEST):
        assert gradcheck(function, (q, k, v))


@pytest.mark.parametrize(
    "options", [{"scale": -0.5}, {"scale": 0.0}, {"sinks": (2,)}, {"bias": (4, 5)}, {"bias": (2, 1, 5)}], ids=str
)
@pytest.mark.parametrize("name", ["causal", "window", "~causal", "dense"])
def test_gradcheck_with_options(name, options):
    torch.manual_seed(5)
    leaves = [
        torch.randn(1, h, n, d, dtype=torch.float64, requires_grad=True)
        for h, n, d in ((2, 4, 2), (1, 5, 2), (1, 5, 1))
    ]
    given = {
        n: torch.randn(s, dtype=torch.float64, requires_grad=True) for n, s in options.items() if isinstance(s, tuple)
    }
    rest = {n: o for n, o in options.items() if n not in given}

    def function(q, k, v, *more):
        output, weights = tiled(q, k, v, ALGEBRA[name], **dict(zip(given, more, strict=True)), **rest)
        return output, weights.lse[torch.isfinite(weights.lse)]

    with engine_of(SMALLEST):
        assert gradcheck(function, (*leaves, *given.values()))
