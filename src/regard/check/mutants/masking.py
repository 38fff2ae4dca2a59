"""Wrong masks: causal, windows, padding, what an empty row gives, and what leaks from keys that nobody may read."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import causal_mask, define, grouped, window_mask
from regard.check.mutants.attend import ALL, attend, is_causal, seen
from regard.check.mutants.mutant import as_function, behaviour, mutant
from regard.check.request import Request

__all__: list[str] = []


# -- causal ------------------------------------------------------------------------------------------------------------


def acausal(r: Request, contract: Contract) -> Tensor:
    """The definition with causal off."""
    return attend(r, contract, allowed=seen(r, contract, causal=ALL))


def shifted(r: Request, contract: Contract, by: int) -> Tensor:
    """The definition with the edge of causal moved to the right."""
    if not is_causal(r, contract):
        return define(r, contract)
    offset = 0 if contract.causal == "top-left" else r.key_len - r.query_len
    lower = torch.ones(r.query_len, r.key_len, dtype=torch.bool).tril(offset + by)
    return attend(r, contract, allowed=seen(r, contract, causal=lower))


@mutant(aims="causal_alignment", rows=(1,))
def causal_from_the_top_left(r: Request, contract: Contract) -> Tensor:
    """Aligning causal at the top left, so that query 0 sees key 0 alone."""
    if not is_causal(r, contract):
        return define(r, contract)
    return attend(r, contract, allowed=seen(r, contract, causal=causal_mask(r.query_len, r.key_len, "top-left")))


@mutant(aims="future_does_not_leak", rows=(8,))
def no_causal(r: Request, contract: Contract) -> Tensor:
    """Leaving causal off."""
    return acausal(r, contract)


@mutant(aims="future_does_not_leak", rows=(8,))
def causal_sees_the_next(r: Request, contract: Contract) -> Tensor:
    """Causal that sees the next position, off by one."""
    return shifted(r, contract, 1)


@mutant(aims="causal_alignment")
def causal_strict(r: Request, contract: Contract) -> Tensor:
    """Causal that does not see its own position."""
    return shifted(r, contract, -1)


@mutant(aims="future_does_not_leak", rows=(9,))
def causal_skipped_without_a_mask(r: Request, contract: Contract) -> Tensor:
    """Applying causal only where a mask is given."""
    return acausal(r, contract) if r.mask is None and r.padding is None else define(r, contract)


@mutant(aims="combined_masks", rows=(11,))
def causal_off_beside_a_mask(r: Request, contract: Contract) -> Tensor:
    """Switching causal off where a mask is given."""
    return define(r, contract) if r.mask is None and r.padding is None else acausal(r, contract)


@mutant(aims="combined_masks", rows=(11,))
def mask_or_causal(r: Request, contract: Contract) -> Tensor:
    """Joining mask and causal by or, not by and."""
    given = r.allowed(r.query.shape[1])
    if given is None or not is_causal(r, contract):
        return define(r, contract)
    lower = causal_mask(r.query_len, r.key_len, contract.causal).to(given.device)
    return attend(r, contract, allowed=seen(r, contract, mask=ALL, causal=given | lower))


@mutant(aims="causal_with_every_option", rows=(7,))
def causal_dropped_with_dropout(r: Request, contract: Contract) -> Tensor:
    """Switching causal off where dropout is on."""
    return acausal(r, contract) if r.dropout else define(r, contract)


@mutant(aims="causal_with_every_option", rows=(7,))
def causal_off_beside_a_bias(r: Request, contract: Contract) -> Tensor:
    """Switching causal off where a bias is given."""
    return define(r, contract) if r.bias is None else acausal(r, contract)


@mutant(aims="asking_for_weights_changes_nothing", rows=(6, 7))
def causal_off_with_weights(r: Request, contract: Contract) -> Tensor:
    """Switching causal off where the weights are asked for."""
    return acausal(r, contract) if r.weights else define(r, contract)


# -- windows -----------------------------------------------------------------------------------------------------------


@mutant(aims="window_counts", rows=(29,))
def window_off_by_one(r: Request, contract: Contract) -> Tensor:
    """A window of one key more than was asked for."""
    return define(r if r.window is None else r.but(window=r.window + 1), contract)


@mutant(aims="window_counts")
def window_ignored(r: Request, contract: Contract) -> Tensor:
    """Ignoring the window."""
    return define(r.but(window=None), contract)


@mutant(aims="window_counts")
def window_from_the_top_left(r: Request, contract: Contract) -> Tensor:
    """Placing query i at position i of the window, also where there are more keys than queries."""
    if r.window is None:
        return define(r, contract)
    longest = max(r.query_len, r.key_len)
    near = window_mask(r.window, longest, longest, contract.window)[: r.query_len, : r.key_len]
    return attend(r, contract, allowed=seen(r, contract, window=near))


# -- masks -------------------------------------------------------------------------------------------------------------


def masked_by(r: Request, contract: Contract, mask: Tensor | None) -> Tensor:
    """The definition with another mask, where there is one; causal and window stay as they are."""
    return define(r, contract) if mask is None else attend(r, contract, allowed=seen(r, contract, mask=mask))


def given(r: Request) -> Tensor | None:
    """Mask and padding together, (B, H, L, S)."""
    return r.allowed(r.query.shape[1])


@mutant(aims="masked_keys_change_nothing", rows=(10,))
def mask_ignored(r: Request, contract: Contract) -> Tensor:
    """Ignoring the mask."""
    return masked_by(r, contract, None if given(r) is None else ALL)


@mutant(aims="mask_polarity", rows=(13,))
def mask_polarity_inverted(r: Request, contract: Contract) -> Tensor:
    """Reading the mask the other way round."""
    mask = None if r.mask is None else ~r.mask
    padding = None if r.padding is None else ~r.padding
    return masked_by(r, contract, given(r.but(mask=mask, padding=padding)))


@mutant(aims="masked_matches_definition", rows=(12,))
def mask_added_as_zeros_and_ones(r: Request, contract: Contract) -> Tensor:
    """Adding the boolean mask to the scores as zeros and ones."""
    mask = given(r)
    if mask is None:
        return define(r, contract)
    bias = mask.to(r.query) if r.bias is None else r.bias + mask.to(r.query)
    return masked_by(r.but(bias=bias), contract, ALL)


@mutant(aims="padding_changes_nothing")
def mask_after_the_softmax(r: Request, contract: Contract) -> Tensor:
    """Multiplying the weights by the mask after the softmax, which counts masked keys in the denominator."""
    mask = given(r)
    if mask is None:
        return define(r, contract)
    return attend(r, contract, allowed=seen(r, contract, mask=ALL), weights=lambda w: torch.where(mask, w, 0))


@mutant(aims="masked_matches_definition")
def mask_zeroes_the_scores(r: Request, contract: Contract) -> Tensor:
    """Setting masked scores to 0, not to -inf."""
    mask = given(r)
    if mask is None:
        return define(r, contract)
    return attend(r, contract, allowed=seen(r, contract, mask=ALL), scores=lambda s: torch.where(mask, s, 0))


@mutant(aims="padding_changes_nothing")
def padding_zeroed(r: Request, contract: Contract) -> Tensor:
    """Zeroing the keys and values that nobody may read, which still take their share of the softmax."""
    mask = given(r)
    if mask is None:
        return define(r, contract)
    unread = ~mask.any(-2, keepdim=True)  # (B, H, 1, S)
    key, value = (torch.where(unread.mT, 0, grouped(t, mask.shape[1], contract)) for t in (r.key, r.value))
    return masked_by(r.but(key=key, value=value), contract, mask | unread)


@mutant(aims="masked_matches_definition")
def mask_transposed(r: Request, contract: Contract) -> Tensor:
    """Reading the mask with queries and keys swapped, where they are as many."""
    mask = given(r)
    return masked_by(r, contract, mask.mT if mask is not None and r.query_len == r.key_len else mask)


@mutant(aims="masked_matches_definition")
def mask_of_the_first_query(r: Request, contract: Contract) -> Tensor:
    """Taking the first query's row of the mask for every query, as if it were padding."""
    mask = given(r)
    return masked_by(r, contract, None if mask is None else mask[..., :1, :])


@mutant(aims="masks_per_head", rows=(15,))
def mask_of_the_first_head(r: Request, contract: Contract) -> Tensor:
    """Taking the first head's mask for every head."""
    mask = given(r)
    return masked_by(r, contract, None if mask is None else mask[:, :1])


@mutant(aims="masks_per_sequence", rows=(16,))
def mask_of_the_first_sequence(r: Request, contract: Contract) -> Tensor:
    """Taking the first sequence's mask for every sequence."""
    mask = given(r)
    return masked_by(r, contract, None if mask is None else mask[:1])


@mutant(aims="masks_per_sequence", rows=(16,))
def mask_of_another_sequence(r: Request, contract: Contract) -> Tensor:
    """Repeating the masks for the heads in the order that mixes up the sequences."""
    mask = given(r)
    if mask is None:
        return define(r, contract)
    batch, heads = mask.shape[:2]
    sequence = (torch.arange(batch * heads) % batch).unflatten(0, (batch, heads))
    return masked_by(r, contract, mask[sequence, torch.arange(heads)])


# -- what stands for -inf ----------------------------------------------------------------------------------------------

in_half = functools.partial(as_function, upcast=False)


@mutant(aims="half_precision_with_a_mask", rows=(4, 14), build=in_half)
def finite_fill(r: Request, contract: Contract) -> Tensor:
    """Filling masked scores with -1e9, which float16 cannot hold and which makes an empty row read everything."""
    return attend(r, contract, hide=lambda s, allowed: s.masked_fill(~allowed, -1e9), clean=False)


@mutant(aims="masked_keys_change_nothing", rows=(14,))
def small_number_added(r: Request, contract: Contract) -> Tensor:
    """Adding -1e4 to masked scores, which a large score outweighs."""
    return attend(r, contract, hide=lambda s, allowed: torch.where(allowed, s, s - 1e4), clean=False)


@mutant(aims="masked_keys_change_nothing")
def filled_with_minus_ten(r: Request, contract: Contract) -> Tensor:
    """Filling masked scores with -10, which leaves masked keys a little weight."""
    return attend(r, contract, hide=lambda s, allowed: torch.where(allowed, s, -10.0), clean=False)


# -- empty rows and unread keys ----------------------------------------------------------------------------------------


@mutant(aims="empty_rows", rows=(2,))
def nan_on_empty_rows(r: Request, contract: Contract) -> Tensor:
    """A softmax over a row of -inf, which is NaN."""
    return attend(r, contract, guard=False)


@mutant(aims="empty_rows")
def empty_rows_read_the_first_key(r: Request, contract: Contract) -> Tensor:
    """Unmasking the first key for a query that may read none."""
    allowed = seen(r, contract).expand(*r.query.shape[:-1], r.key_len)
    first = torch.arange(r.key_len, device=allowed.device) == 0
    return attend(r, contract, allowed=allowed | (first & ~allowed.any(-1, keepdim=True)))


@behaviour(aims="empty_row_gradients", rows=(3,))
def nan_gradient_on_empty_rows(r: Request, contract: Contract) -> Tensor:
    """Putting 0 for the NaN of an empty row in the output, and leaving it in the gradient."""
    return torch.nan_to_num(attend(r, contract, guard=False))


@mutant(aims="unread_keys_leave_no_trace", rows=(34,))
def nan_leaks_from_unread_keys(r: Request, contract: Contract) -> Tensor:
    """Multiplying what nobody may read by a weight of 0, which keeps its NaN."""
    return attend(r, contract, clean=False)


@behaviour(aims="unread_keys_leave_no_trace", rows=(34,))
def nan_leaks_into_the_gradient(r: Request, contract: Contract) -> Tensor:
    """Keeping the NaN of unread keys out of the output, and not out of the gradient."""
    return attend(r.but(value=torch.nan_to_num(r.value)), contract, clean=False)
