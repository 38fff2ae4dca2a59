"""Reading a layer of transformers so that nothing in it is passed over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard import masks
from regard.hf.load_checks import CONV1D
from regard.hf.load_parts import Rows
from regard.masks import Mask

__all__ = ["Reader"]


class Reader:
    """A layer and its configuration, and which of its parameters were read.

    Args:
        layer: of a class whose forward is known.
        config: its configuration; None where the class needs none.
    """

    def __init__(self, layer: nn.Module, config: Any) -> None:
        self.layer, self._config = layer, config
        self._read: set[int] = set()

    @property
    def config(self) -> Any:
        """The configuration, which must be there."""
        if self._config is None:
            raise ValueError(
                f"config must be given for a {type(self.layer).__name__}, whose layer.config is missing: pass "
                "config=model.config"
            )
        return self._config

    @property
    def given_config(self) -> Any:
        """The configuration, or None."""
        return self._config

    def rows(self, name: str) -> Rows:
        """The rows of a projection, by its name in the layer."""
        module = self.layer.get_submodule(name)
        self._read.update(id(p) for p in module.parameters(recurse=False))
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        with torch.enable_grad():
            cls = type(module)
            if f"{cls.__module__}.{cls.__qualname__}" == CONV1D:
                weight = weight.mT  # (width, rows) -> (rows, width)
            return Rows(weight, bias if isinstance(bias, Tensor) else None)

    def parameter(self, name: str) -> Tensor:
        """A parameter by its name in the layer."""
        parameter = self.layer.get_parameter(name)
        self._read.add(id(parameter))
        return parameter

    def has(self, name: str) -> bool:
        """Whether the layer has a module or parameter of this name that is not None."""
        return getattr(self.layer, name, None) is not None

    def attribute(self, name: str) -> Any:
        """An attribute that the layer's forward reads."""
        return getattr(self.layer, name)

    def dropout(self, name: str) -> float:
        """The probability of an attribute that is a number, a :class:`torch.nn.Dropout` or nothing."""
        value = self.attribute(name)
        if isinstance(value, nn.Identity):
            return 0.0
        return float(value.p if isinstance(value, nn.Dropout) else value)

    def eps(self, name: str) -> float:
        """What a norm adds to the variance."""
        norm = self.layer.get_submodule(name)
        return float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)  # type: ignore[arg-type]

    def check_model(self, models: tuple[str, ...]) -> None:
        """Raise if the configuration is not that of the layer's class."""
        name = getattr(self.config, "model_type", None)
        if name not in models:
            raise ValueError(
                f"config must be that of a {type(self.layer).__name__}, of model_type {' or '.join(models)}, got "
                f"{type(self.config).__name__} with model_type {name!r}"
            )

    def layer_type(self) -> str:
        """Which of config.layer_types is the layer's: full_attention or sliding_attention."""
        types, index = self.config.layer_types, self.attribute("layer_idx")
        if index is None or not 0 <= index < len(types):
            raise ValueError(
                f"layer.layer_idx must say which of the {len(types)} config.layer_types is the layer's, got {index}"
            )
        kind = str(types[index])
        if kind not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"config.layer_types[{index}] must be full_attention or sliding_attention, got {kind!r}, which "
                "regard's layer does not compute"
            )
        return kind

    def leave(self, name: str) -> None:
        """Say of a module that it is not part of what regard's layer computes."""
        self._read.update(id(p) for p in self.layer.get_submodule(name).parameters())

    def check_all_read(self) -> None:
        """Raise if the layer has a parameter that was not read."""
        left = [name for name, p in self.layer.named_parameters() if id(p) not in self._read]
        if left:
            raise ValueError(
                f"layer has parameters that a {type(self.layer).__name__} of transformers has not: {', '.join(left)}; "
                "an adapter or a changed class may have added them"
            )

    def check_no_output_dropout(self, name: str) -> None:
        """Raise for a layer in training that drops a part of its output, which regard's layer does not."""
        p = self.dropout(name)
        if self.layer.training and p > 0:
            place = f"layer.{name}.p" if isinstance(self.attribute(name), nn.Dropout) else f"layer.{name}"
            raise ValueError(
                f"layer drops {p:g} of its output in training ({name}), after the output projection, and regard's "
                f"layer does not: call .eval() before loading, or set {place} to 0, and drop the output outside"
            )

    def causal(self, *, window: int | None = None, attribute: str | None = "is_causal") -> Mask:
        """The mask of a decoder's layer, if neither the configuration nor an attribute of the layer says otherwise."""
        says = {"config.is_causal": getattr(self._config, "is_causal", True)}
        if attribute is not None:
            *path, last = attribute.split(".")
            says[f"layer.{attribute}"] = getattr(self.layer.get_submodule(".".join(path)), last, True)
        for name, value in says.items():
            if value is False:
                raise ValueError(
                    f"layer is a decoder's, but {name} is False: what it masks then depends on attn_implementation; "
                    "make a regard.MultiHeadAttention with the mask that is wanted, or set it to True if the layer is "
                    "to be causal"
                )
        return masks.causal() if window is None else masks.window(window)

    def check_not_causal(self) -> None:
        """Raise if the configuration asks for a causal mask in a layer that reads a whole text or context."""
        if getattr(self._config, "is_causal", None) is True:
            raise ValueError(
                "config.is_causal is True, but layer is one that reads all of its text or context: what it masks then "
                "depends on attn_implementation; set config.is_causal to None, or make a regard.MultiHeadAttention "
                "with mask=regard.masks.causal() if the layer is to be causal"
            )

    def check_heads(self, name: str, found: int, expected: Any) -> None:
        """Raise if the rows of a projection are not those of as many heads as the configuration says."""
        if expected is not None and found != expected:
            raise ValueError(
                f"layer has {found} heads in {name} and its configuration has {expected}: a layer that was split over "
                "devices must be gathered first, and config must be its own"
            )
