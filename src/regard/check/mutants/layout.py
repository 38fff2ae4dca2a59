"""The right sums over the wrong numbers: heads, groups, strides, widths, blocks of keys, sequences, order."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define, grouped, scale_of
from regard.check.mutants.attend import attend, behind, seen
from regard.check.mutants.mutant import as_function, as_module, behaviour, mutant
from regard.check.request import Request, restride

__all__: list[str] = []

BLOCK = 16
"""Keys in a block, for those who work in blocks."""

# What comes out for the identity as values is not the weights of those who touch the values first.
with_right_weights = functools.partial(as_function, weigh=define)


# -- heads -------------------------------------------------------------------------------------------------------------


def viewed(t: Tensor) -> Tensor:
    """(B, H, L, D) read from the memory of (B, L, H, D)."""
    return t.transpose(1, 2).reshape(t.shape)


def joined_by_view(heads: Tensor) -> Tensor:
    """(B, H, L, D) whose memory is taken for that of (B, L, H, D)."""
    batch, number, length, width = heads.shape
    return heads.reshape(batch, length, number, width).transpose(1, 2)


@mutant(aims="heads_are_independent", rows=(22,), build=with_right_weights)
def view_without_transpose(r: Request, contract: Contract) -> Tensor:
    """Splitting and joining the heads by view, without a transpose."""
    return joined_by_view(define(r.map(viewed), contract))


@mutant(aims="matches_definition", rows=(22,), build=functools.partial(as_module, weigh=define))
def heads_concatenated_without_transpose(r: Request, contract: Contract) -> Tensor:
    """Joining the heads by view, without a transpose."""
    return joined_by_view(define(r, contract))


@mutant(aims="heads_are_independent")
def heads_mixed(r: Request, contract: Contract) -> Tensor:
    """Handing each head's output to the next head."""
    return define(r, contract).roll(1, dims=1)


@mutant(aims="matches_definition")
def first_head_for_all(r: Request, contract: Contract) -> Tensor:
    """Using the first head's queries for every head."""
    return define(r.but(query=r.query[:, :1].expand(r.query.shape)), contract)


@mutant(aims="grouped_heads", rows=(23,))
def grouped_heads_tiled(r: Request, contract: Contract) -> Tensor:
    """Tiling the key heads, so that query head h reads key head h % Hkv."""
    heads = r.query.shape[1]
    tiled = (t.repeat(1, heads // t.shape[1], 1, 1) for t in (r.key, r.value))
    return define(r.but(**dict(zip(("key", "value"), tiled, strict=True))), contract)


@mutant(aims="grouped_heads")
def first_group_for_all(r: Request, contract: Contract) -> Tensor:
    """Letting every query head read the first of the fewer key heads."""
    if r.key.shape[1] == r.query.shape[1]:
        return define(r, contract)
    return define(r.but(key=r.key[:, :1], value=r.value[:, :1]), contract)


# -- memory ------------------------------------------------------------------------------------------------------------


def dense(t: Tensor, strides: str | None) -> Tensor:
    """Read as if the numbers of the last axis stood one after the other."""
    t = t if strides is None else restride(t, strides)
    return t.as_strided(t.shape, (*t.stride()[:-1], 1))


@mutant(aims="strides_do_not_matter", rows=(24,), build=with_right_weights)
def strides_ignored(r: Request, contract: Contract) -> Tensor:
    """Reading the last axis as if its stride were 1."""
    return define(r.map(lambda t: dense(t, r.strides)), contract)


@behaviour(aims="strides_do_not_matter", rows=(24,))
def strides_ignored_in_the_backward(r: Request, contract: Contract) -> Tensor:
    """Reading the last axis in the backward pass as if its stride were 1."""
    return behind(define(r, contract), define(r.map(lambda t: dense(t, r.strides)), contract))


@mutant(aims="odd_widths", rows=(25,))
def odd_width_loses_a_column(r: Request, contract: Contract) -> Tensor:
    """Dropping the last column of heads of an odd width."""
    even = r.query.shape[-1] // 2 * 2
    return define(r.but(query=r.query[..., :even], key=r.key[..., :even], scale=scale_of(r)), contract)


@behaviour(aims="odd_widths", rows=(25,))
def odd_width_reads_garbage(r: Request, contract: Contract) -> Tensor:
    """Filling up heads of an odd width with whatever is in memory."""
    if r.query.shape[-1] % 2 == 0:
        return define(r, contract)
    query, key = (torch.cat([t, torch.randn_like(t[..., :1])], dim=-1) for t in (r.query, r.key))
    return define(r.but(query=query, key=key, scale=scale_of(r)), contract)


# -- blocks of keys ----------------------------------------------------------------------------------------------------


def first_keys(r: Request, contract: Contract, count: int) -> Tensor:
    """The definition that reads no more than so many keys."""
    near = torch.arange(r.key_len, device=r.query.device) < count
    return attend(r, contract, allowed=seen(r, contract) & near)


@mutant(aims="long_inputs")
def tail_of_the_last_block_dropped(r: Request, contract: Contract) -> Tensor:
    """Dropping the keys beyond the last full block of 16."""
    return first_keys(r, contract, r.key_len // BLOCK * BLOCK) if r.key_len > BLOCK else define(r, contract)


@mutant(aims="lengths_differ")
def keys_beyond_the_queries_dropped(r: Request, contract: Contract) -> Tensor:
    """Reading as many keys as there are queries."""
    return first_keys(r, contract, r.query_len)


def softmax_of_blocks(scores: Tensor) -> Tensor:
    """A softmax in each block of keys, and the mean over the blocks."""
    parts = scores.split(BLOCK, -1)
    dead = [(part == -math.inf).all(-1, keepdim=True) for part in parts]
    weights = [torch.where(d, 0, torch.softmax(torch.where(d, 0, p), -1)) for d, p in zip(dead, parts, strict=True)]
    blocks = len(parts) - torch.cat(dead, -1).sum(-1, keepdim=True)
    return torch.cat(weights, -1) / blocks


@mutant(aims="long_inputs")
def parts_averaged(r: Request, contract: Contract) -> Tensor:
    """Merging blocks of 16 keys by their mean, not by their log-sum-exp."""
    return attend(r, contract, weigh=softmax_of_blocks)


def softmax_without_rescaling(scores: Tensor) -> Tensor:
    """One key after the other, each against the largest score so far."""
    largest = scores.detach().cummax(-1).values
    e = torch.exp(scores - torch.where(largest == -math.inf, 0, largest))
    return e / e.sum(-1, keepdim=True)


@mutant(aims="order_of_keys_changes_nothing")
def keys_depend_on_order(r: Request, contract: Contract) -> Tensor:
    """A running softmax that does not rescale the earlier part when a larger score comes."""
    return attend(r, contract, weigh=softmax_without_rescaling)


# -- order and sequences -----------------------------------------------------------------------------------------------


@mutant(aims="order_of_keys_changes_nothing")
def distance_counts(r: Request, contract: Contract) -> Tensor:
    """Lowering the scores with the distance, which nobody asked for."""
    at = torch.arange(r.query_len)[:, None] + r.key_len - r.query_len
    distance = (at - torch.arange(r.key_len)).abs().to(r.query)
    return define(r.but(bias=-0.2 * distance if r.bias is None else r.bias - 0.2 * distance), contract)


@mutant(aims="order_of_queries_is_kept")
def queries_out_of_order(r: Request, contract: Contract) -> Tensor:
    """Writing the second half of the queries before the first."""
    return define(r, contract).roll(r.query_len // 2, dims=-2)


@mutant(aims="sequences_are_independent")
def batch_coupled(r: Request, contract: Contract) -> Tensor:
    """Scaling each sequence's scores by its largest, divided by the largest of the batch."""

    def coupled(s: Tensor) -> Tensor:
        largest = s.abs().amax((1, 2, 3), keepdim=True)
        return s * largest / largest.amax().clamp(min=1e-9)

    return attend(r, contract, scores=coupled)


@mutant(aims="sequences_are_independent")
def first_sequence_for_all(r: Request, contract: Contract) -> Tensor:
    """Letting every sequence read the keys and values of the first."""
    return define(r.but(key=r.key[:1].expand(r.key.shape), value=r.value[:1].expand(r.value.shape)), contract)


# -- one projection for another ----------------------------------------------------------------------------------------


@mutant(aims="matches_definition", build=functools.partial(as_module, weigh=define))
def values_from_the_query(r: Request, contract: Contract) -> Tensor:
    """Taking the queries for the values, where they are as many."""
    fits = r.query.shape[-2:] == r.value.shape[-2:]
    return define(r.but(value=r.query) if fits else r, contract)


@mutant(aims="matches_definition", build=as_module)
def projection_shared(r: Request, contract: Contract) -> Tensor:
    """Taking the keys for the queries, where they are as many: one projection for both."""
    return define(r.but(query=grouped(r.key, r.query.shape[1], contract)) if r.query_len == r.key_len else r, contract)


@mutant(aims="any_sizes")
def sequences_beyond_four_repeated(r: Request, contract: Contract) -> Tensor:
    """Treating the sequences beyond the fourth as if they were the first ones again."""
    out = define(r, contract)
    return out[torch.arange(out.shape[0], device=out.device) % 4] if out.shape[0] > 4 else out


@mutant(aims="any_sizes")
def wide_heads_cut(r: Request, contract: Contract) -> Tensor:
    """Reading no more than 128 columns of a head."""
    scale = scale_of(r)
    return define(r.but(query=r.query[..., :128], key=r.key[..., :128], scale=scale), contract)
