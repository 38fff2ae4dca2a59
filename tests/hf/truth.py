"""What a model's own eager attention computes: the weights of every call, by the name of the module that made it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

Calls = dict[tuple[str, int], Any]
"""(name of the module, which call of it) -> the weights."""

SOFTMAXES = (torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax)


@contextmanager
def interface_calls(model: nn.Module) -> Iterator[Calls]:
    """The weights that functions of transformers' AttentionInterface return while the block runs."""
    names = {id(module): name for name, module in model.named_modules()}
    found: Calls = {}
    counts: dict[str, int] = {}
    asked = AttentionInterface.get_interface

    def get_interface(self: AttentionInterface, name: str, default: Any) -> Any:
        function = asked(self, name, default)

        def called(*args: Any, **kwargs: Any) -> Any:
            output, weights = function(*args, **kwargs)
            module = kwargs.get("module", args[0] if args else None)
            name = names.get(id(module), type(module).__name__)
            found[name, counts.get(name, 0)] = weights
            counts[name] = counts.get(name, 0) + 1
            return output, weights

        return called

    AttentionInterface.get_interface = get_interface
    try:
        yield found
    finally:
        AttentionInterface.get_interface = asked


class OwnCalls(TorchFunctionMode):
    """The weights of attention that goes past the interface: every softmax over the last of 3 to 5 axes in a module of
    attention, and by their definition those of PyTorch's own attention functions.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
        self.found: Calls = {}
        self.counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            kwargs = {**kwargs, "need_weights": True, "average_attn_weights": False}
            output, weights = func(*args, **kwargs)
            self.add(self.caller(), weights)
            return output, weights
        if func is F.scaled_dot_product_attention:
            self.add(self.caller(), defined(*args, **kwargs))
        result = func(*args, **kwargs)
        if func in SOFTMAXES and isinstance(result, Tensor) and result.dim() in (3, 4, 5):
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            module = self.caller()
            if axis in (-1, result.dim() - 1) and module is not None and "att" in type(module).__name__.lower():
                self.add(module, result)
        return result

    def add(self, module: nn.Module | None, weights: Tensor) -> None:
        name = self.names.get(id(module), "")
        self.found[name, self.counts.get(name, 0)] = weights.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    def caller(self) -> nn.Module | None:
        """The innermost module of the model on the stack."""
        frame = sys._getframe(2)
        while frame is not None:
            first = frame.f_code.co_varnames[:1]
            module = frame.f_locals.get(first[0]) if first and frame.f_code.co_argcount else None
            if isinstance(module, nn.Module) and id(module) in self.names:
                return module
            frame = frame.f_back
        return None


def defined(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights that F.scaled_dot_product_attention documents, (..., H, L, S), in float64."""
    q, k = query.double(), key.double()
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)  # (..., H, L, S)
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).nan_to_num().to(query.dtype)
