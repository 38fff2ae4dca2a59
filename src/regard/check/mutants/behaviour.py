"""Right numbers, and what goes wrong beside them: state, gradients, returned weights, dropout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define, scale_of
from regard.check.mutants.attend import ALL, attend, behind, seen
from regard.check.mutants.mutant import as_function, behaviour, built, mutant
from regard.check.request import Request

__all__: list[str] = []


# -- what is left behind -----------------------------------------------------------------------------------------------


def writable(t: Tensor) -> bool:
    """Whether it can be written to without an error: who writes in place does so where it works."""
    return t.is_contiguous() and not t.requires_grad


# Who asks for weights gets them from a second run of the core, which would scale once more.
once = functools.partial(as_function, weigh=define)


@behaviour(aims="inputs_are_unchanged", build=once)
def query_scaled_in_place(r: Request, contract: Contract) -> Tensor:
    """Scaling the query in place."""
    if not writable(r.query):
        return define(r, contract)
    return define(r.but(query=r.query.mul_(scale_of(r)), scale=1.0), contract)


@behaviour(aims="inputs_are_unchanged", build=once)
def keys_scaled_in_place(r: Request, contract: Contract) -> Tensor:
    """Doubling the keys in place and halving the scale, which no output shows."""
    if not writable(r.key):
        return define(r, contract)
    return define(r.but(key=r.key.mul_(2), scale=scale_of(r) / 2), contract)


@behaviour(aims="inputs_are_unchanged")
def value_written(r: Request, contract: Contract) -> Tensor:
    """Writing the output over the values, where it fits."""
    output = define(r, contract)
    if writable(r.value) and output.shape == r.value.shape and r.query_len > 1:
        r.value.copy_(output.detach())
    return output


@behaviour(aims="prints_nothing")
def prints(r: Request, contract: Contract) -> Tensor:
    """Printing a shape at every call."""
    print("scores", (*r.query.shape[:-1], r.key_len))
    return define(r, contract)


@behaviour(aims="global_state_is_kept")
def seeds_the_generator(r: Request, contract: Contract) -> Tensor:
    """Seeding everybody's random generator."""
    torch.manual_seed(0)
    return define(r, contract)


@behaviour(aims="global_state_is_kept")
def changes_the_default_dtype(r: Request, contract: Contract) -> Tensor:
    """Changing the default dtype."""
    torch.set_default_dtype(torch.float64 if torch.get_default_dtype() == torch.float32 else torch.float32)
    return define(r, contract)


@behaviour(aims="global_state_is_kept")
def switches_gradients_off(r: Request, contract: Contract) -> Tensor:
    """Switching gradients off and leaving them off."""
    output = define(r, contract)
    torch.set_grad_enabled(False)
    return output


@behaviour(aims="global_state_is_kept")
def changes_the_threads(r: Request, contract: Contract) -> Tensor:
    """Changing the number of threads."""
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    return define(r, contract)


@behaviour(aims="runs_twice_equal")
def noise_at_every_call(r: Request, contract: Contract) -> Tensor:
    """Adding a little noise at every call."""
    output = define(r, contract)
    return output + 1e-4 * torch.randn_like(output)


@built(aims="earlier_calls_leave_no_trace", rows=(31,))
def remembers_by_shape() -> Any:
    """Keeping the keys for the next call, if that one has keys of the same shape."""
    kept: list[Tensor] = []

    def remembers_by_shape(r: Request, contract: Contract) -> Tensor:
        if r.key.requires_grad:
            return define(r, contract)
        if not kept or kept[0].shape != r.key.shape or kept[0].dtype != r.key.dtype:
            kept[:] = [r.key.detach().clone()]
        return define(r.but(key=kept[0]), contract)

    return as_function(remembers_by_shape)


def fits(mask: Tensor, r: Request) -> bool:
    """Whether the mask broadcasts to (B, H, L, S)."""
    batch, heads, query_len, key_len = mask.shape
    sizes = query_len in (1, r.query_len) and key_len in (1, r.key_len)
    return sizes and batch in (1, r.query.shape[0]) and heads in (1, r.query.shape[1])


@built(aims="earlier_calls_leave_no_trace")
def remembers_the_last_mask() -> Any:
    """Using the mask of the call before where none is given."""
    kept: list[Tensor] = []

    def remembers_the_last_mask(r: Request, contract: Contract) -> Tensor:
        if r.mask is not None:
            kept[:] = [r.mask.clone()]
        elif kept and fits(kept[0], r):
            r = r.but(mask=kept[0])
        return define(r, contract)

    return as_function(remembers_the_last_mask)


@behaviour(aims="requires_grad_changes_nothing")
def wrong_under_requires_grad(r: Request, contract: Contract) -> Tensor:
    """Leaving mask and causal off where gradients are needed."""
    if torch.is_grad_enabled() and r.query.requires_grad:
        return attend(r, contract, allowed=seen(r, contract, mask=ALL, causal=ALL))
    return define(r, contract)


# -- gradients ---------------------------------------------------------------------------------------------------------


@behaviour(aims="gradients_match")
def detached_weights(r: Request, contract: Contract) -> Tensor:
    """Weights without a gradient: none reaches query and key."""
    return define(r.but(query=r.query.detach(), key=r.key.detach()), contract)


def of_the_scores(r: Request, contract: Contract) -> Tensor:
    """The definition, with a gradient for query and key alone."""
    return define(r.but(value=r.value.detach()), contract)


def of_the_values(r: Request, contract: Contract) -> Tensor:
    """The definition, with a gradient for the values alone."""
    return define(r.but(query=r.query.detach(), key=r.key.detach()), contract)


@behaviour(aims="gradients_match")
def gradient_scaled(r: Request, contract: Contract) -> Tensor:
    """A backward pass that forgets the scale."""
    right = define(r, contract)
    return behind(right, of_the_scores(r, contract) / scale_of(r), of_the_values(r, contract))


@behaviour(aims="gradients_match")
def normaliser_detached(r: Request, contract: Contract) -> Tensor:
    """A backward pass that takes the denominator of the softmax for a constant."""

    def weigh(s: Tensor) -> Tensor:
        e = torch.exp(s - s.detach().amax(-1, keepdim=True))
        return e / e.detach().sum(-1, keepdim=True)

    return attend(r, contract, weigh=weigh)


@behaviour(aims="gradients_with_a_mask")
def value_gradient_unmasked(r: Request, contract: Contract) -> Tensor:
    """A gradient of the values that flows through the mask."""
    if r.mask is None:
        return define(r, contract)
    open_ = r.but(query=r.query.detach(), key=r.key.detach())
    unmasked = attend(open_, contract, allowed=seen(open_, contract, mask=ALL))
    return behind(define(r, contract), of_the_scores(r, contract), unmasked)


# -- returned weights --------------------------------------------------------------------------------------------------


def returning(weigh: Callable[[Tensor, Request, Contract], Tensor]) -> Any:
    """Builds the right attention, with other weights returned: ``weigh`` gets the right ones."""

    def returned(r: Request, contract: Contract) -> Tensor:
        # With dropout the same core makes the weights that are used.
        return define(r, contract) if r.dropout else weigh(define(r, contract), r, contract)

    return as_function(define, weigh=returned)


@built(aims="weights_match_output")
def weights_before_the_mask() -> Any:
    """Returning the weights from before the mask."""
    return returning(lambda w, r, contract: attend(r, contract, allowed=ALL))


@built(aims="weights_match_output")
def weights_are_scores() -> Any:
    """Returning the scores in place of the weights."""
    return returning(lambda w, r, contract: torch.log(w.clamp(min=1e-9)))


@built(aims="weights_match_output")
def weights_of_the_first_head() -> Any:
    """Returning the first head's weights for every head."""
    return returning(lambda w, r, contract: w[:, :1].expand(w.shape))


@built(aims="weights_match_output")
def weights_transposed() -> Any:
    """Returning the weights with queries and keys swapped, where they are as many."""
    return returning(lambda w, r, contract: w.mT if w.shape[-1] == w.shape[-2] else w)


@mutant(aims="asking_for_weights_changes_nothing", rows=(6,))
def weights_change_the_output(r: Request, contract: Contract) -> Tensor:
    """Rounding the weights to bfloat16 where they are asked for."""
    if not r.weights:
        return define(r, contract)
    return attend(r, contract, weights=lambda w: w.to(torch.bfloat16).to(w.dtype))


# -- dropout -----------------------------------------------------------------------------------------------------------


def kept(w: Tensor, p: float) -> Tensor:
    """The weights that are kept, unscaled."""
    return torch.where(torch.rand_like(w) >= p, w, 0)


@built(aims="dropout_is_unbiased", rows=(28,))
def dropout_unscaled() -> Any:
    """Dropping weights without scaling up those that are kept."""
    return as_function(define, drop=kept)


@built(aims="dropout_is_unbiased", rows=(28,))
def dropout_scaled_by_p() -> Any:
    """Dividing the kept weights by p, not by 1 - p."""
    return as_function(define, drop=lambda w, p: kept(w, p) / p)


@built(aims="dropout_is_unbiased")
def dropout_ignored() -> Any:
    """Ignoring dropout."""
    return as_function(define, drop=lambda w, p: w)


@behaviour(aims="dropout_is_unbiased", build=functools.partial(as_function, drop=lambda w, p: w))
def dropout_before_the_softmax(r: Request, contract: Contract) -> Tensor:
    """Dropping scores before the softmax, not weights after it."""
    return attend(r, contract, scores=lambda s: F.dropout(s, r.dropout))


@built(aims="dropout_gradient", rows=(28,))
def dropout_differs_in_the_backward() -> Any:
    """Drawing other weights to drop in the backward pass."""
    return as_function(define, drop=lambda w, p: behind(F.dropout(w, p), F.dropout(w, p)))


@built(aims="dropout_gradient", rows=(28,))
def dropout_scaled_by_p_in_the_backward() -> Any:
    """Scaling by p in the backward pass of dropout, not by 1 - p."""

    def drop(w: Tensor, p: float) -> Tensor:
        used = F.dropout(w, p)
        return behind(used, used * (1 - p) / p)

    return as_function(define, drop=drop)
