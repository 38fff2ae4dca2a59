"""Wrong modules: dropout and modes, what reaches the heads, and the projections around them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import define
from regard.check.mutants.attend import attend, seen
from regard.check.mutants.masking import mask_ignored, no_causal
from regard.check.mutants.mutant import Attention, as_module, built, mutant
from regard.check.mutants.scores import scale_of_the_model_width
from regard.check.request import Request

__all__: list[str] = []


# -- modes -------------------------------------------------------------------------------------------------------------


@built(aims="eval_is_deterministic", rows=(26,))
def dropout_active_in_eval() -> Any:
    """Dropout that stays active in eval."""

    class Wrong(Attention):
        def rate(self) -> float:
            return self.dropout.p

    return Wrong()


@built(aims="dropout_survives_a_round_trip", rows=(27,))
def dropout_stuck_after_eval() -> Any:
    """Dropout that stays off in training after one call in eval."""

    class Wrong(Attention):
        off = False

        def rate(self) -> float:
            self.off = self.off or not self.training
            return 0.0 if self.off else self.dropout.p

    return Wrong()


@built(aims="dropout_is_unbiased", rows=(28,))
def module_with_dropout_unscaled() -> Any:
    """A module that drops weights without scaling up those that are kept."""
    return as_module(define, drop=lambda w, p: torch.where(torch.rand_like(w) >= p, w, 0))


@built(aims="empty_rows", rows=(5,))
def fast_path_nan_in_eval() -> Any:
    """A fast path in eval that gives NaN for an empty row, where training gives 0."""

    def core(r: Request, contract: Contract) -> Tensor:
        return attend(r, contract, guard=r.training)

    return as_module(core)


@built(aims="train_equals_eval", rows=(10,))
def eval_ignores_the_mask() -> Any:
    """Ignoring the mask in eval."""

    def core(r: Request, contract: Contract) -> Tensor:
        return define(r, contract) if r.training else mask_ignored(r, contract)

    return as_module(core)


@built(aims="train_equals_eval")
def eval_ignores_causal() -> Any:
    """Leaving causal off in eval."""

    def core(r: Request, contract: Contract) -> Tensor:
        return define(r, contract) if r.training else no_causal(r, contract)

    return as_module(core)


# -- what reaches the heads --------------------------------------------------------------------------------------------


@built(aims="masked_keys_change_nothing", rows=(10,))
def mask_not_passed_to_the_heads() -> Any:
    """A module that does not pass its mask on to its heads."""
    return as_module(mask_ignored)


@mutant(aims="masked_matches_definition", build=as_module)
def mask_only_for_the_first_head(r: Request, contract: Contract) -> Tensor:
    """Passing the mask to the first head alone."""
    mask = r.allowed(r.query.shape[1])
    if mask is None:
        return define(r, contract)
    others = (torch.arange(mask.shape[1]) > 0)[:, None, None]  # (H, 1, 1)
    return attend(r, contract, allowed=seen(r, contract, mask=mask | others.to(mask.device)))


@built(aims="matches_definition", rows=(17,))
def module_with_the_scale_of_the_model_width() -> Any:
    """A module whose heads divide their scores by sqrt(d_model)."""
    return as_module(scale_of_the_model_width)


@built(aims="asking_for_weights_changes_nothing", rows=(6,))
def module_whose_mask_is_off_with_weights() -> Any:
    """A module that ignores its mask where the weights are asked for."""

    def core(r: Request, contract: Contract) -> Tensor:
        return mask_ignored(r, contract) if r.weights else define(r, contract)

    return as_module(core)


# -- projections -------------------------------------------------------------------------------------------------------


@built(aims="matches_definition")
def output_projection_skipped() -> Any:
    """Leaving out the output projection."""

    class Wrong(Attention):
        def finish(self, joined: Tensor) -> Tensor:
            return joined

    return Wrong()


@built(aims="matches_definition")
def output_projection_without_its_bias() -> Any:
    """Leaving out the bias of the output projection."""

    class Wrong(Attention):
        def finish(self, joined: Tensor) -> Tensor:
            return F.linear(joined, self.out_proj.weight)

    return Wrong()


@built(aims="uses_context")
def context_ignored() -> Any:
    """Taking keys and values from x, also where a context is given."""

    class Wrong(Attention):
        def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return super().project(x, x)

    return Wrong()


@built(aims="sequences_are_independent")
def batch_taken_for_the_length() -> Any:
    """Attending over the sequences of the batch, not over the positions of a sequence."""

    class Wrong(Attention):
        def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return super().project(x.transpose(0, 1), source.transpose(0, 1))

        def finish(self, joined: Tensor) -> Tensor:
            return super().finish(joined.transpose(0, 1))

    return Wrong()
