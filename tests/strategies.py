"""Random attention problems: shapes, dtypes, strides, masks and options, each with what the definition says of it.

Hypothesis chooses the structure (so that it can shrink it), a seeded generator fills in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import Shape, broadcasting, numbers, shapes
from torch import Tensor

from regard import reference
from regard.masks import Mask


def examples(n: int) -> settings:
    """n examples, and ten times as many under HYPOTHESIS_PROFILE=explore, whose 1000 stand beside the usual 100."""
    return settings(max_examples=n * settings.default.max_examples // 100)


# Scores of a float16 or bfloat16 case are those of the rounded inputs: the oracle upcasts these.
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One call of attention(), and the mask it must be equal to as booleans (..., H, L, S)."""

    shape: Shape
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Mask | Tensor | None = None
    allowed: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that can have a gradient."""
        found = {"query": self.query, "key": self.key, "value": self.value}
        return found | {name: t for name, t in self.options.items() if isinstance(t, Tensor)}

    def run(self, attention: Callable[..., Any], **more: Any) -> Any:
        return attention(self.query, self.key, self.value, self.mask, **self.options, **more)

    def truth(self) -> reference.Definition:
        """The definition on the inputs upcast to float64."""
        q, k, v, options = self.upcast()
        return reference.attention(q, k, v, self.allowed, **options)

    def upcast(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """query, key, value and the options in float64."""
        options = {name: t.double() if isinstance(t, Tensor) else t for name, t in self.options.items()}
        return self.query.double(), self.key.double(), self.value.double(), options

    def exact(self) -> Case:
        """The same case in float64: its gradients are not rounded to the dtype of this one."""
        q, k, v, options = self.upcast()
        return Case(self.shape, q, k, v, self.mask, self.allowed, options)

    def with_grad(self) -> Case:
        """The same case whose tensors are leaves that require grad, with the strides that they have."""
        leaves = {name: t.detach().requires_grad_() for name, t in self.tensors.items()}
        options = {name: leaves.get(name, value) for name, value in self.options.items()}
        q, k, v = (leaves[name] for name in ("query", "key", "value"))
        return Case(self.shape, q, k, v, self.mask, self.allowed, options)


LAYOUTS = ("contiguous", "transposed", "column-major", "every other", "sliced", "expanded")


def strided(shape: tuple[int, ...], layout: str, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """randn of a shape, as a view with other strides than a fresh tensor has."""

    def make(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

    *lead, length, width = shape
    if layout == "transposed" and lead:
        return make(*lead[:-1], length, lead[-1], width).transpose(-2, -3)  # (..., L, H, D) as a projection gives it
    if layout == "column-major":
        return make(*lead, width, length).mT
    if layout == "every other":
        return make(*lead, length, 2 * width)[..., ::2]
    if layout == "sliced":
        return make(*lead, length + 3, width + 2)[..., 1 : length + 1, 1:-1]
    if layout == "expanded" and lead:
        return make(*(1 for _ in lead), length, width).expand(shape)
    return make(*shape)


@st.composite
def options(draw: st.DrawFn, shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    """bias, sinks, softcap and scale, each in about a third of the cases."""
    found: dict[str, Any] = {}
    # float32 beside half precision is what a bias and sinks commonly are.
    kinds = st.sampled_from((dtype, torch.float32) if dtype in HALVES else (dtype,))
    if draw(st.integers(0, 2)) == 0:
        found["bias"] = torch.randn(draw(broadcasting(shape)), generator=generator).to(draw(kinds))
        if draw(st.integers(0, 3)) == 0:
            gone = torch.rand(found["bias"].shape, generator=generator) > 0.8
            found["bias"] = found["bias"].masked_fill(gone, -torch.inf)
    if draw(st.integers(0, 2)) == 0:
        found["sinks"] = torch.randn(shape.heads or 1, generator=generator).to(draw(kinds))
    if draw(st.integers(0, 4)) == 0:
        found["softcap"] = draw(st.sampled_from((0.5, 3.0)))
    if draw(st.integers(0, 2)) == 0:
        found["scale"] = draw(st.sampled_from((0.0, -1.0, 0.3, 2.0)))
    return found


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    ranks: tuple[int, ...] = (2, 3, 4, 4, 4, 5),
    square: bool = False,
) -> Case:
    shape, dtype = draw(shapes(ranks=ranks, square=square)), draw(st.sampled_from(dtypes))
    generator = numbers(draw)
    sizes = (*shape.rows, shape.width), (*shape.keys, shape.width), (*shape.keys, shape.value_width)
    q, k, v = (strided(s, draw(st.sampled_from(LAYOUTS)), generator, dtype) for s in sizes)
    mask, allowed = None, None
    if draw(st.integers(0, 3)):
        mask, four = draw(masked(shape))
        allowed = four.reshape(shape.scores)
        if draw(st.integers(0, 4)) == 0:
            mask = allowed  # a plain boolean tensor in the place of a mask
    return Case(shape, q, k, v, mask, allowed, draw(options(shape, dtype, generator)))
