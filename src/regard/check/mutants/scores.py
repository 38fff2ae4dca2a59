"""Wrong scores, and weights that are no softmax of the right ones."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define
from regard.check.mutants.attend import attend, softmax_over
from regard.check.mutants.mutant import as_function, mutant
from regard.check.request import Request

__all__: list[str] = []


def scaled(r: Request, contract: Contract, scale: float) -> Tensor:
    """The definition with another scale, where none is asked for."""
    return define(r.but(scale=scale) if r.scale is None else r, contract)


@mutant(aims="matches_definition", rows=(17,))
def scale_of_the_model_width(r: Request, contract: Contract) -> Tensor:
    """Dividing the scores by sqrt(d_model), the width of all heads together."""
    return scaled(r, contract, (r.query.shape[1] * r.query.shape[-1]) ** -0.5)


@mutant(aims="matches_definition", rows=(18,))
def scale_inverted(r: Request, contract: Contract) -> Tensor:
    """Multiplying the scores by sqrt(D), not dividing them."""
    return scaled(r, contract, r.query.shape[-1] ** 0.5)


@mutant(aims="matches_definition")
def scale_missing(r: Request, contract: Contract) -> Tensor:
    """Leaving the scores unscaled."""
    return scaled(r, contract, 1.0)


@mutant(aims="scale_follows_the_width")
def scale_by_width(r: Request, contract: Contract) -> Tensor:
    """Dividing the scores by D, not by its root."""
    return scaled(r, contract, 1 / r.query.shape[-1])


@mutant(aims="scale_follows_the_width")
def scale_written_for_64(r: Request, contract: Contract) -> Tensor:
    """Dividing the scores by 8, whatever the width."""
    return scaled(r, contract, 1 / 8)


@mutant(aims="matches_definition")
def scale_by_the_key_length(r: Request, contract: Contract) -> Tensor:
    """Dividing the scores by the root of the number of keys."""
    return scaled(r, contract, r.key_len**-0.5)


@mutant(aims="value_width_differs", build=functools.partial(as_function, weigh=define))
def scale_of_the_value_width(r: Request, contract: Contract) -> Tensor:
    """Taking the scale from the width of the values."""
    return scaled(r, contract, r.value.shape[-1] ** -0.5)


@mutant(aims="custom_scale", rows=(19,))
def custom_scale_ignored(r: Request, contract: Contract) -> Tensor:
    """Ignoring a scale that is asked for."""
    return define(r.but(scale=None), contract)


@mutant(aims="custom_scale")
def custom_scale_beside_the_usual(r: Request, contract: Contract) -> Tensor:
    """Multiplying a scale that is asked for to the usual one."""
    return define(r if r.scale is None else r.but(scale=r.scale / math.sqrt(r.query.shape[-1])), contract)


@mutant(aims="rows_sum_to_one", rows=(21,))
def softmax_over_queries(r: Request, contract: Contract) -> Tensor:
    """A softmax over the queries, not over the keys."""
    return attend(r, contract, weigh=lambda s: softmax_over(s, -2), guard=False)


@mutant(aims="heads_are_independent", rows=(21,))
def softmax_over_heads(r: Request, contract: Contract) -> Tensor:
    """A softmax over the heads, not over the keys."""
    return attend(r, contract, weigh=lambda s: softmax_over(s, 1), guard=False)


def exp32(x: Tensor) -> Tensor:
    """The exponential with the range of float32, so that float64 shows what float32 does."""
    return torch.where(x > 88.72, math.inf, torch.where(x < -103.97, 0, torch.exp(x.clamp(max=88.72))))


def shares(e: Tensor) -> Tensor:
    """Each of its row's sum."""
    return e / e.sum(-1, keepdim=True)


@mutant(aims="large_logits")
def softmax_without_stabilisation(r: Request, contract: Contract) -> Tensor:
    """Exponentiating the scores before their maximum is subtracted."""
    return attend(r, contract, weigh=lambda s: shares(exp32(s)))


@mutant(aims="large_logits")
def stabilised_by_the_global_maximum(r: Request, contract: Contract) -> Tensor:
    """Subtracting the largest score of the whole batch, which leaves other rows nothing."""
    return attend(r, contract, weigh=lambda s: shares(exp32(s - s.amax())))


@mutant(aims="one_huge_logit")
def scores_clamped(r: Request, contract: Contract) -> Tensor:
    """Clamping the scores to +-10."""
    return attend(r, contract, scores=lambda s: s.clamp(-10, 10))


def softmax_of_one_more(scores: Tensor) -> Tensor:
    """As if there were one more key, of score 0."""
    top = scores.amax(-1, keepdim=True).clamp(min=0)
    e = torch.exp(scores - top)
    return e / (e.sum(-1, keepdim=True) + torch.exp(-top))


@mutant(aims="equal_keys_give_the_mean")
def denominator_plus_one(r: Request, contract: Contract) -> Tensor:
    """Adding 1 to the denominator of the softmax."""
    return attend(r, contract, weigh=softmax_of_one_more)


@mutant(aims="rows_sum_to_one")
def sigmoid_in_place_of_softmax(r: Request, contract: Contract) -> Tensor:
    """A sigmoid in place of the softmax."""
    return attend(r, contract, weigh=torch.sigmoid)


@mutant(aims="rows_sum_to_one")
def top_keys_only(r: Request, contract: Contract) -> Tensor:
    """Dropping weights below 0.01 without sharing out what they had."""
    return attend(r, contract, weights=lambda w: torch.where(w < 1e-2, 0, w))


@mutant(aims="softcap_caps")
def softcap_ignored(r: Request, contract: Contract) -> Tensor:
    """Ignoring the softcap."""
    return define(r.but(softcap=None), contract)


@mutant(aims="softcap_caps")
def softcap_not_multiplied_back(r: Request, contract: Contract) -> Tensor:
    """A softcap that divides by the cap and does not multiply it back."""
    cap = r.softcap
    if cap is None:
        return define(r, contract)
    return attend(r.but(softcap=None), contract, scores=lambda s: torch.tanh(s / cap))


@mutant(aims="causal_with_every_option")
def softcap_after_the_mask(r: Request, contract: Contract) -> Tensor:
    """Capping the scores after the mask, which lifts -inf to -cap."""
    return attend(r, contract, order=("mask", "cap", "bias"))


@mutant(aims="bias_is_added")
def bias_ignored(r: Request, contract: Contract) -> Tensor:
    """Ignoring the bias."""
    return define(r.but(bias=None), contract)


@mutant(aims="bias_is_added")
def bias_subtracted(r: Request, contract: Contract) -> Tensor:
    """Subtracting the bias."""
    return define(r if r.bias is None else r.but(bias=-r.bias), contract)


@mutant(aims="bias_is_added")
def bias_scaled(r: Request, contract: Contract) -> Tensor:
    """Scaling the bias together with the scores."""
    return define(r if r.bias is None else r.but(bias=r.bias / math.sqrt(r.query.shape[-1])), contract)


@mutant(aims="softcap_caps")
def bias_before_the_cap(r: Request, contract: Contract) -> Tensor:
    """Adding the bias before the cap, not after it."""
    return attend(r, contract, order=("bias", "cap", "mask"))


@mutant(aims="linear_in_values", build=functools.partial(as_function, weigh=define))
def values_normalised(r: Request, contract: Contract) -> Tensor:
    """Normalising the values to length 1."""
    return define(r.but(value=F.normalize(r.value, dim=-1)), contract)


@mutant(aims="shift_of_keys_changes_nothing")
def cosine_of_query_and_key(r: Request, contract: Contract) -> Tensor:
    """Normalising queries and keys to length 1."""
    return define(r.but(query=F.normalize(r.query, dim=-1), key=F.normalize(r.key, dim=-1)), contract)
