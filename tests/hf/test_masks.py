"""The masks of attn_implementation="regard" are those of sdpa, entry by entry, and rules where they can be."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import masking_utils as hf

from regard import masks
from regard.hf import mask_functions
from regard.hf.mask_functions import Place, Unread, rule_of
from regard.hf.mask_interface import attention_mask
from regard.hf.mask_tensor import MaskTensor
from regard.hf.options import mask_of

# (L, S, q_offset, kv_offset): a text, a step, some steps, a static cache at its beginning and in it, a rolling cache.
PLACES = [(9, 9, 0, 0), (1, 9, 8, 0), (3, 9, 6, 0), (5, 12, 0, 0), (3, 12, 4, 0), (1, 5, 11, 7), (2, 6, 11, 7)]
PACKED = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5, 0, 1, 2]])
BLOCKS = torch.tensor([[-1, 0, 0, 0, -1, -1, 1, 1, -1] + [-1] * 9, [0, 0, -1, -1, -1, 1, 1, 1, 1] + [-1] * 9])


def padding(kind: str, length: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    valid = torch.ones(2, length, dtype=torch.bool)
    if kind == "left":
        valid[1, :3] = False
    if kind == "right":
        valid[1, -2:] = False
    if kind == "holes":
        valid[0, 2] = valid[1, ::3] = False
    return valid


FUNCTIONS = {
    "causal": hf.causal_mask_function,
    "window": hf.sliding_window_causal_mask_function(3),
    "window of one": hf.sliding_window_causal_mask_function(1),
    "window of none": hf.sliding_window_causal_mask_function(0),
    "bidirectional": hf.bidirectional_mask_function,
    "band": hf.sliding_window_bidirectional_mask_function(2),
    "chunks": hf.chunked_causal_mask_function(4, torch.tensor([0, 3])),
    "blocks": hf.or_masks(hf.causal_mask_function, hf.blockwise_overlay(BLOCKS)),
    "everything or": hf.or_masks(hf.bidirectional_mask_function, hf.causal_mask_function),
}


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(FUNCTIONS, ("none", "left", "right", "holes"))))
def test_every_entry_is_that_of_sdpa(name, kind):
    for query_len, key_len, q_offset, kv_offset in PLACES:
        asked = {
            "batch_size": 2, "q_length": query_len, "kv_length": key_len, "q_offset": q_offset, "kv_offset": kv_offset,
            "mask_function": FUNCTIONS[name], "attention_mask": padding(kind, q_offset + query_len),
        }  # fmt: skip
        expected = hf.sdpa_mask(**asked, allow_is_causal_skip=False)
        found = attention_mask(**asked, allow_is_causal_skip=True, allow_is_bidirectional_skip=True)
        assert type(found) is MaskTensor
        assert found.shape == expected.shape
        assert torch.equal(found.dense(), expected), (name, kind, query_len, key_len, q_offset, kv_offset)


@pytest.mark.parametrize("inner", ["causal", "window", "chunks"])
def test_packed_sequences(inner):
    function = hf.packed_sequence_compatibility_function(FUNCTIONS[inner], POSITIONS, PACKED)
    asked = {"batch_size": 2, "q_length": 9, "kv_length": 9, "mask_function": function}
    found = attention_mask(**asked)
    assert torch.equal(found.dense(), hf.sdpa_mask(**asked, allow_is_causal_skip=False))
    assert ("dense" in repr(found.rule)) == (inner == "chunks")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("causal", "causal()"), ("window", "window(3)"), ("bidirectional", "None"), ("band", "band(2, 2)"),
        ("chunks", "documents(ids (2, 9)) & causal()"),
        ("blocks", "causal() | documents(ids (2, 9)) & padding(valid (2, 9))"),
    ],
)  # fmt: skip
def test_what_is_known_is_a_rule(name, rule):
    found = attention_mask(batch_size=2, q_length=9, kv_length=9, mask_function=FUNCTIONS[name])
    assert repr(found.rule) == rule


def test_padding_of_nothing_is_no_rule():
    found = attention_mask(batch_size=2, q_length=9, kv_length=9, attention_mask=torch.ones(2, 9, dtype=torch.bool))
    assert repr(found.rule) == "causal()"


def test_a_rule_of_a_long_text_makes_no_entries():
    found = attention_mask(batch_size=1, q_length=1 << 20, kv_length=1 << 20, mask_function=FUNCTIONS["window"])
    assert found.shape == (1, 1, 1 << 20, 1 << 20)  # 10^12 booleans
    assert repr(found.rule) == "window(3)"


def test_a_function_of_somebody_is_asked_for_every_entry():
    def even(batch, head, q, kv):
        return (q + kv + batch) % 2 == 0

    asked = {"batch_size": 2, "q_length": 5, "kv_length": 7, "mask_function": hf.and_masks(even, FUNCTIONS["causal"])}
    for use_vmap in (False, True):
        found = attention_mask(**asked, use_vmap=use_vmap)
        assert torch.equal(found.dense(), hf.sdpa_mask(**asked, use_vmap=use_vmap, allow_is_causal_skip=False))
    with pytest.raises(Unread, match="even"):
        rule_of(even, Place(2, 5, 7, 0, 0, torch.device("cpu")))


def test_a_function_that_means_something_else_is_not_taken_for_what_it_was(monkeypatch):
    def overlay(sliding_window):
        def inner_mask(batch_idx, head_idx, q_idx, kv_idx):
            return kv_idx >= q_idx - sliding_window  # one key more

        return inner_mask

    mask_functions._known.cache_clear()
    monkeypatch.setattr(hf, "sliding_window_overlay", overlay)
    try:
        assert "sliding_window_overlay" not in mask_functions._known().values()
        asked = {"batch_size": 1, "q_length": 9, "kv_length": 9}
        asked["mask_function"] = hf.and_masks(overlay(3), hf.causal_mask_function)
        found = attention_mask(**asked)
        assert torch.equal(found.dense(), hf.sdpa_mask(**asked, allow_is_causal_skip=False))
        assert "dense" in repr(found.rule)
    finally:
        mask_functions._known.cache_clear()


def test_packed_positions_with_gaps_are_asked_entry_by_entry():
    gaps = POSITIONS * 2
    function = hf.packed_sequence_compatibility_function(FUNCTIONS["window"], gaps, PACKED)
    asked = {"batch_size": 2, "q_length": 9, "kv_length": 9, "mask_function": function}
    assert torch.equal(attention_mask(**asked).dense(), hf.sdpa_mask(**asked, allow_is_causal_skip=False))


# -- the tensor that is none ------------------------------------------------------------------------------------------


@pytest.fixture
def mask() -> MaskTensor:
    return MaskTensor(masks.causal() & masks.padding(torch.tensor([2, 5])), (2, 1, 4, 5), torch.device("cpu"))


def test_models_that_compute_with_their_mask_get_its_entries(mask):
    dense = mask.rule.to_dense(4, 5, batch=2, num_heads=1)
    assert isinstance(mask, torch.Tensor)
    assert mask.dtype == torch.bool
    assert torch.equal(mask[:, :, -1:, 1:3], dense[:, :, -1:, 1:3])
    assert torch.equal(torch.cat([mask, mask], -1), torch.cat([dense, dense], -1))
    assert torch.equal(~mask, ~dense)
    assert torch.equal(torch.where(mask, 0.0, -1.0), torch.where(dense, 0.0, -1.0))
    assert torch.equal(torch.zeros(2, 1, 4, 5).masked_fill(mask, 1.0), dense.float())
    assert torch.equal(mask.to(torch.float32), dense.float())
    assert torch.equal(mask.repeat(1, 3, 1, 1), dense.repeat(1, 3, 1, 1))
    assert type(mask & dense) is torch.Tensor
    assert mask.sum() == dense.sum()


def test_a_slice_of_all_is_the_mask_itself(mask):
    assert mask[:, :, :, :5].rule is mask.rule
    assert mask[:, :, :, :9].rule is mask.rule
    assert type(mask[:, :, :, :4]) is torch.Tensor
    assert type(mask[:, :, ::2]) is torch.Tensor
    assert type(mask[:, :, :, -2:]) is torch.Tensor


def test_adding_the_mask_to_scores_is_refused(mask):
    for add in (lambda: torch.zeros(2, 1, 4, 5) + mask, lambda: mask + 1.0, lambda: torch.zeros(2, 1, 4, 5).add_(mask)):
        with pytest.raises(RuntimeError, match="adds its attention mask to scores of its own"):
            add()


@pytest.mark.parametrize(
    "write",
    [
        lambda mask: mask.__setitem__((..., 0), False),
        lambda mask: mask.masked_fill_(torch.tensor([True, False, False, False, False]), False),
        lambda mask: mask.logical_and_(torch.tensor([False, True, True, True, True])),
        lambda mask: mask[:, :, :, :5].__setitem__((..., 0), False),
    ],
)
def test_what_is_written_to_the_mask_is_what_it_masks(mask, write):
    want = mask.rule.to_dense(4, 5, batch=2, num_heads=1).clone()
    want[..., 0] = False
    mask.dense()
    write(mask)
    assert torch.equal(mask[:], want)
    q, k = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 5, 8)
    found, added = mask_of(torch.nn.Identity(), q, k, mask, {})
    assert added is None
    assert torch.equal(found, want)
