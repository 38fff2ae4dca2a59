"""What a layer must be for its parameters alone to say what it computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["check_layer"]

PLAIN = (nn.Linear, nn.Dropout, nn.Identity, nn.LayerNorm, nn.Embedding, nn.ModuleList)
CONV1D = "transformers.pytorch_utils.Conv1D"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}
# Transformers leaves hooks on the layers of a model that was asked for its attentions; they record and change nothing.
RECORDING = "transformers.utils.output_capturing"


def check_layer(layer: nn.Module) -> None:
    """Raise if something in the layer changes what its parameters say: adapters, quantised weights, hooks, ties."""
    home = type(layer).__module__
    for name, module in layer.named_modules():
        where = f"layer.{name}" if name else "layer"
        cls = type(module)
        spelled = f"{cls.__module__}.{cls.__qualname__}"
        if name and cls not in PLAIN and spelled != CONV1D and cls.__module__ != home:
            raise ValueError(
                f"{where} must be a plain module such as torch.nn.Linear, got {spelled}: an adapter or a quantised "
                "module computes something else than its weight says; merge the adapter (peft: merge_and_unload()) or "
                "dequantise the model first"
            )
        if "forward" in vars(module):
            raise ValueError(
                f"{where} has a forward of its own, set on the module (accelerate and others do so): what it computes "
                "cannot be read from its class; undo that first (accelerate: remove_hook_from_module)"
            )
        for kind, hook in _hooks(module):
            raise ValueError(
                f"{where} has {kind} ({hook}), which may change what it computes: remove it first, and put it on "
                "regard's layer if it is wanted there"
            )
    _check_parameters(layer)


def _hooks(module: nn.Module) -> Iterator[tuple[str, str]]:
    for attribute, kind in HOOKS.items():
        for hook in getattr(module, attribute).values():
            if getattr(hook, "__module__", None) != RECORDING:
                yield kind, getattr(hook, "__qualname__", type(hook).__qualname__)


def _check_parameters(layer: nn.Module) -> None:
    named = list(layer.named_parameters(remove_duplicate=False))
    if not named:
        raise ValueError("layer has no parameters")
    first_name, first = named[0]
    seen: dict[int, str] = {}
    for name, parameter in named:
        if type(parameter) is not nn.Parameter or parameter.dtype not in DTYPES:
            kind = type(parameter).__qualname__
            raise ValueError(
                f"layer.{name} must be a plain torch.nn.Parameter of a floating-point dtype that attention computes "
                f"in, got {kind} of {parameter.dtype}; dequantise or gather it first"
            )
        if parameter.dtype != first.dtype or parameter.device != first.device:
            raise ValueError(
                f"layer.{name} must be {first.dtype} on {first.device} as layer.{first_name} is, got "
                f"{parameter.dtype} on {parameter.device}; move the layer with .to(...)"
            )
        if id(parameter) in seen:
            raise ValueError(
                f"layer.{name} and layer.{seen[id(parameter)]} are one parameter: copies would be trained apart; give "
                "each its own"
            )
        seen[id(parameter)] = name
