"""A mask as words, numbers and tensors: what comes back is the mask that went in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.mask_strategies import masked
from tests.shapes import Shape, shapes

from regard import masks
from regard.masks import Mask, Sizes, composition, rules
from regard.masks.codec import decode, encode

ids, lengths = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([2, 6])
valid = torch.tensor([[True, False, True, True, True, True], [True, True, True, False, False, True]])
table = torch.arange(24).view(4, 6) % 5 != 0

RULES = {
    "causal": masks.causal(),
    "offset": masks.causal(offset=-1),
    "window": masks.window(3),
    "band": masks.band(1, 2),
    "prefix": masks.prefix(2),
    "lengths": masks.padding(lengths),
    "valid": masks.padding(valid),
    "documents": masks.documents(ids),
    "dense": masks.dense(table),
}
COMPOSED = {
    "and": masks.causal() & masks.window(2),
    "or": masks.prefix(1) | masks.causal(),
    "not": ~masks.band(1, 1),
    "nested": (masks.prefix(2) | ~masks.window(3)) & (masks.documents(ids) & masks.causal(offset=1))
    | masks.dense(table),
}
SIZES = Sizes((2,), 3, 4, 6)


def there_and_back(mask: Mask, sizes: Sizes) -> Mask:
    code = encode(mask, sizes)
    assert isinstance(code.words, str)
    assert all(type(n) is int for n in code.numbers)
    back = decode(*code)
    assert back is not None
    return back


def whole(mask: Mask, sizes: Sizes) -> torch.Tensor:
    block = mask.bind(sizes).block(slice(0, sizes.query_len), slice(0, sizes.key_len), sizes)
    return block.expand(sizes.batch, sizes.heads, -1, -1)


@pytest.mark.parametrize("name", [*RULES, *COMPOSED])
def test_a_mask_comes_back_as_it_was(name):
    mask = {**RULES, **COMPOSED}[name]
    back = there_and_back(mask, SIZES)
    assert repr(back) == repr(mask)
    assert type(back) is type(mask)
    assert torch.equal(whole(back, SIZES), whole(mask, SIZES))


def test_the_tensors_are_the_same_tensors():
    mask = masks.documents(ids) & masks.padding(lengths) & masks.dense(table)
    for a, b in zip(there_and_back(mask, SIZES).tensors(), mask.tensors(), strict=True):
        assert a is b


def test_every_rule_has_its_word():
    seen = {type(mask).__name__ for mask in {**RULES, **COMPOSED}.values()}
    assert seen | {"Where"} == {*rules.__all__, *composition.__all__}
    assert len({encode(mask, SIZES).words for mask in RULES.values()}) == len(RULES)


def test_no_mask_has_no_words():
    assert encode(None, SIZES) == ("", [], [])
    assert decode("", [], []) is None


@pytest.mark.parametrize("sizes", [SIZES, Sizes((2, 5), 3, 4, 6), Sizes((2,), 1, 4, 6, headless=True)], ids=str)
@pytest.mark.parametrize(
    "rule",
    [
        lambda b, h, q, kv: (q + kv) % 3 != 0,
        lambda b, h, q, kv: (h + kv) % 2 == 0,
        lambda b, h, q, kv: b + q >= kv,
        lambda b, h, q, kv: q + h > b,
        lambda b, h, q, kv: torch.arange(6) < 4,
    ],
    ids=["position", "head", "batch", "no key", "no argument"],
)
def test_a_rule_becomes_its_booleans(rule, sizes):
    mask = masks.where(rule) & masks.causal()
    code = encode(mask, sizes)
    assert code.words == "and dense causal"
    assert torch.equal(whole(decode(*code), sizes), whole(mask, sizes))


def test_a_rule_of_positions_is_one_map_for_all():
    (booleans,) = encode(masks.where(lambda b, h, q, kv: q >= kv), SIZES).tensors
    assert booleans.shape == (1, 4, 6)


def test_a_subclass_is_asked_and_not_taken_for_its_base():
    class Strict(rules.Causal):
        def allowed(self, b, h, q, kv, sizes):
            return kv < q + self.resolved(sizes)

    code = encode(Strict(None), SIZES)
    assert code.words == "dense"
    assert torch.equal(code.tensors[0][0], masks.causal(offset=1).to_dense(4, 6))  # one key less than offset=2


def test_a_rule_that_gives_no_booleans_is_refused():
    with pytest.raises(TypeError, match=r"must return a boolean tensor, got int64"):
        encode(masks.where(lambda b, h, q, kv: q - kv), SIZES)


def test_a_word_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"mask code: words must be those of encode\(\), got 'random'"):
        decode("and causal random", [], [])


@given(shapes(ranks=(4, 5)).flatmap(lambda shape: masked(shape).map(lambda pair: (shape, pair))))
def test_any_composition_means_the_same(case: tuple[Shape, tuple[Mask, torch.Tensor]]):
    shape, (mask, allowed) = case
    sizes = Sizes(shape.batch, shape.heads, shape.query_len, shape.key_len)
    assert torch.equal(whole(there_and_back(mask, sizes), sizes), allowed)
