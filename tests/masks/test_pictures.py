"""Every constructor, as a picture drawn by hand: queries down, keys across."""

from __future__ import annotations

import textwrap

import pytest
import torch

from regard import masks

T, F = True, False

# name: mask, L, S, picture
PICTURES = {
    "causal, L = S": (
        masks.causal(), 3, 3, """
        ■··
        ■■·
        ■■■"""),
    "causal, L < S": (
        masks.causal(), 2, 4, """
        ■■■·
        ■■■■"""),
    "causal, L > S": (
        masks.causal(), 4, 2, """
        ··
        ··
        ■·
        ■■"""),
    "causal from the top left": (
        masks.causal(offset=0), 2, 4, """
        ■···
        ■■··"""),
    "causal of earlier keys only": (
        masks.causal(offset=-1), 3, 3, """
        ···
        ■··
        ■■·"""),
    "window(1)": (
        masks.window(1), 3, 3, """
        ■··
        ·■·
        ··■"""),
    "window(2), L < S": (
        masks.window(2), 2, 4, """
        ·■■·
        ··■■"""),
    "window(2), L > S": (
        masks.window(2), 4, 2, """
        ··
        ··
        ■·
        ■■"""),
    "a window wider than the keys": (
        masks.window(9), 2, 2, """
        ■·
        ■■"""),
    "band(1, 1)": (
        masks.band(1, 1), 3, 4, """
        ■■■·
        ·■■■
        ··■■"""),
    "band(0, 2)": (
        masks.band(0, 2), 3, 3, """
        ■■■
        ·■■
        ··■"""),
    "padding by length": (
        masks.padding(torch.tensor(2)), 2, 3, """
        ■■·
        ■■·"""),
    "padding key by key": (
        masks.padding(torch.tensor([T, F, T])), 2, 3, """
        ■·■
        ■·■"""),
    "documents": (
        masks.documents(torch.tensor([7, 7, 3, 7])), 4, 4, """
        ■■·■
        ■■·■
        ··■·
        ■■·■"""),
    "documents, the last two queries": (
        masks.documents(torch.tensor([0, 0, 1, 1])), 2, 4, """
        ··■■
        ··■■"""),
    "documents, queries before all keys": (
        masks.documents(torch.tensor([0, 1])), 3, 2, """
        ··
        ■·
        ·■"""),
    "prefix": (
        masks.prefix(2), 2, 3, """
        ■■·
        ■■·"""),
    "prefix(0)": (
        masks.prefix(0), 1, 3, """
        ···"""),
    "a prefix longer than the keys": (
        masks.prefix(5), 1, 3, """
        ■■■"""),
    "where": (
        masks.where(lambda b, h, q, kv: q + kv == 2), 3, 3, """
        ··■
        ·■·
        ■··"""),
    "where, of keys alone": (
        masks.where(lambda b, h, q, kv: kv == 1), 2, 3, """
        ·■·
        ·■·"""),
    "dense": (
        masks.dense(torch.tensor([[T, F], [F, T]])), 2, 2, """
        ■·
        ·■"""),
    "dense, a row for all": (
        masks.dense(torch.tensor([T, F])), 2, 2, """
        ■·
        ■·"""),
    "dense, a column for all": (
        masks.dense(torch.tensor([[T], [F]])), 2, 2, """
        ■■
        ··"""),
    "and": (
        masks.causal() & masks.window(2), 3, 3, """
        ■··
        ■■·
        ·■■"""),
    "or": (
        masks.prefix(2) | masks.causal(), 3, 3, """
        ■■·
        ■■·
        ■■■"""),
    "not": (
        ~masks.causal(), 3, 3, """
        ·■■
        ··■
        ···"""),
    "not of and": (
        ~(masks.causal() & masks.prefix(1)), 2, 2, """
        ·■
        ·■"""),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_mask_is_its_picture(name):
    mask, query_len, key_len, picture = PICTURES[name]
    assert mask.picture(query_len, key_len) == textwrap.dedent(picture).strip()


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_booleans(name):
    mask, query_len, key_len, picture = PICTURES[name]
    rows = [[c == "■" for c in row] for row in textwrap.dedent(picture).strip().splitlines()]
    dense = mask.to_dense(query_len, key_len)
    assert dense.dtype == torch.bool
    assert dense.expand(query_len, key_len).tolist() == rows


def test_masks_of_a_batch_have_its_axes():
    lengths = masks.padding(torch.tensor([1, 3]))
    assert lengths.to_dense(2, 3).shape == (2, 1, 2, 3)
    assert lengths.to_dense(2, 3)[:, 0, 0].tolist() == [[T, F, F], [T, T, T]]
    documents = masks.documents(torch.tensor([[0, 1], [0, 0]]))
    assert documents.to_dense(2)[:, 0].tolist() == [[[T, F], [F, T]], [[T, T], [T, T]]]
    heads = masks.where(lambda b, h, q, kv: h == 1)
    assert heads.to_dense(1, 1, num_heads=3).flatten().tolist() == [F, T, F]
    both = masks.dense(torch.eye(2).bool()[:, None, :, None].expand(2, 3, 2, 1))
    assert both.to_dense(2, 4).shape == (2, 3, 2, 4)


def test_one_length_means_queries_and_keys():
    assert torch.equal(masks.causal().to_dense(5), masks.causal().to_dense(5, 5))


def test_a_large_mask_is_drawn_in_cells():
    lines = masks.causal().picture(400, 400, width=8).splitlines()
    assert lines == ["▒▒······", "■■▒▒····", "■■■■▒▒··", "■■■■■■▒▒"]


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_draw(sizes):
    assert masks.causal().to_dense(*sizes).shape == sizes


REPRS = {
    "causal()": masks.causal(),
    "causal(offset=-1)": masks.causal(-1),
    "window(3)": masks.window(3),
    "band(1, 2)": masks.band(1, 2),
    "padding(lengths (2,))": masks.padding(torch.tensor([1, 2])),
    "padding(valid (2,))": masks.padding(torch.tensor([T, F])),
    "documents(ids (2,))": masks.documents(torch.tensor([0, 1])),
    "prefix(4)": masks.prefix(4),
    "dense((1, 2))": masks.dense(torch.tensor([[T, F]])),
    "(causal() | prefix(2)) & ~window(3)": (masks.causal() | masks.prefix(2)) & ~masks.window(3),
    "~(causal() & prefix(2))": ~(masks.causal() & masks.prefix(2)),
    "causal() & prefix(2) | window(1)": (masks.causal() & masks.prefix(2)) | masks.window(1),
}


@pytest.mark.parametrize("text", REPRS)
def test_repr(text):
    assert repr(REPRS[text]) == text


def test_repr_of_a_rule_is_its_name():
    def every_other(b, h, q, kv):
        return (q - kv) % 2 == 0

    assert repr(masks.where(every_other)) == "where(every_other)"
