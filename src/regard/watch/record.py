"""One call of attention that was seen."""

from __future__ import annotations

from typing import Any

import torch

from regard import AttentionWeights
from regard.watch.kept import Kept

__all__ = ["Record"]


class Record:
    """One call of attention: who called what, and its weights.

    Attributes:
        name: the qualified name of the module that called, "encoder.layers.3.self_attn".
        module_type: the name of its class.
        function: what was called, "F.scaled_dot_product_attention".
        step: which forward of the model, from 0.
        call: which call of this name, from 0.
        shape: (..., H, L, S), that of the weights.
        dtype: the dtype in which query and key were multiplied.
        mask: what masks it, in words.
        statistics: with ``keep=``, each question and its answer.
    """

    def __init__(
        self, *, name: str, module_type: str, step: int, call: int, kept: Kept, statistics: dict[Any, Any] | None
    ) -> None:
        self.name = name
        self.module_type = module_type
        self.function = kept.call.function
        self.step = step
        self.call = call
        self.shape: torch.Size = kept.shape
        self.dtype: torch.dtype = kept.dtype
        self.mask: str = kept.call.describe_mask()
        self.statistics: dict[Any, Any] = {} if statistics is None else statistics
        self._refusal = kept.call.refusal
        self._kept = kept if statistics is None else None

    @property
    def kept(self) -> Kept:
        """What is held of the call; an error that says why where nothing is."""
        if self._refusal is not None:
            raise RuntimeError(f"{self.function} in {self.name}: no weights: {self._refusal}")
        if self._kept is None:
            raise RuntimeError(
                f"{self.function} in {self.name}: no weights: watch(keep={list(self.statistics)}) answered these and "
                "let go of query and key; read record.statistics, or watch without keep="
            )
        name = self._kept.modified()
        if name is not None:
            # What a rule of a mask reads is not copied: nobody can tell the rule to read the copy.
            fix = "ask before the write" + ("" if self._kept.copied else ", or regard.watch(..., hold='copy')")
            raise RuntimeError(
                f"{self.function} in {self.name}: {name} was written to after the call, and the weights are computed "
                f"from it on demand; {fix}"
            )
        return self._kept

    @property
    def weights(self) -> AttentionWeights:
        """The :class:`regard.AttentionWeights` (..., H, L, S) of the call, before dropout; made when first asked for.

        Raises:
            RuntimeError: query, key or a mask was written to since; ``keep=`` let go of them; or the call was of a
                kind whose weights cannot be had, and the message says why.
        """
        kept = self.kept
        made = kept.keys.made
        if self.call in made:
            return made[self.call]
        weights = kept.weights()
        if kept.detached:  # what carries a graph depends on whether gradients are on when it is made
            made[self.call] = weights
        return weights

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"Record({self.name!r}, {self.function}, {size}, {str(self.dtype)[6:]}, mask={self.mask})"
