"""The weights of an attention that ran in a compiled graph: made into ordinary ones when they are asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from regard import weight_checks
from regard.layout import Layout
from regard.masks.algebra import Mask
from regard.operators import Call
from regard.precision import outside_autocast
from regard.weights import AttentionWeights

__all__ = ["TracedWeights"]

# What is made when first needed: it depends on what the tensors hold, which nobody knows while a graph is made.
_LATER = ("_problem", "_versions", "plan")


class TracedWeights(AttentionWeights):
    """The weights of a call of :func:`regard.attention` inside torch.compile.

    In the graph they answer :attr:`lse`, :meth:`entropy` (without bias and softcap) and ``weights @ x``; returned from
    the compiled function they answer everything, from query and key as they are when first asked.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        value_shape: torch.Size,
        lse: Tensor,
        layout: Layout,
        mask: Mask | None,
        call: Call,
    ) -> None:
        self._tensors = tensors
        self._value_shape = value_shape
        self._known_lse = lse
        self._layout = layout
        self._call = call
        self._differentiable = torch.is_grad_enabled()
        self.mask = mask

    def __getattr__(self, name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if torch.compiler.is_compiling():
            from regard.ungraphed import ask

            ask(self, "_fill")
        else:
            self._fill()
        return self.__dict__[name]

    def _fill(self) -> None:
        """Make what an eager call has made before it returns."""
        q, k, bias, sinks = self._tensors
        like_value = k.new_zeros(()).expand(self._value_shape)  # a plan looks at sizes, dtype and device
        problem, _, plan = self._call.prepare(q, k, like_value, bias, sinks)
        self._problem = problem if self._differentiable else problem.detach()
        self._versions = weight_checks.versions(self._problem)
        self.plan = plan

    @property
    def shape(self) -> torch.Size:
        """(..., H, L, S), or (..., L, S) for inputs without heads."""
        q, k, *_ = self._tensors
        heads = () if self._layout.headless else (q.shape[1],)
        return torch.Size((*self._layout.batch_shape, *heads, q.shape[2], k.shape[2]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of query."""
        return self._tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of query."""
        return self._tensors[0].device

    def _in_layout(self, layout: Layout) -> TracedWeights:
        """The same weights with other leading axes."""
        return TracedWeights(self._tensors, self._value_shape, self._lse, layout, self.mask, self._call)

    @outside_autocast
    def __matmul__(self, x: Tensor) -> Tensor:
        """``A @ x``, (..., H, L, N), in the graph or outside."""
        if not torch.compiler.is_compiling():
            return super().__matmul__(x)
        weight_checks.check_operand(x, self.shape, self._tensors[1].shape[1], axis_name="S", name="x")
        x4, vector = weight_checks.fold_operand(x, self._layout)
        out = self._layout.unfold(self._times(x4))
        return out[..., 0] if vector else out

    @outside_autocast
    def entropy(self) -> Tensor:
        """The entropy of each row in nats, (..., H, L), in the graph or outside."""
        q, k, bias, sinks = self._tensors
        if not torch.compiler.is_compiling():
            return super().entropy()
        if bias is not None or self._call.softcap is not None:
            found: Tensor = _outside("entropy")(self)
            return found
        empty = self._lse == -torch.inf
        lse = torch.where(empty, 0, self._lse)
        scale = 1 / math.sqrt(q.shape[-1]) if self._call.scale is None else self._call.scale
        score = (q * self._times(k.to(lse.dtype))).sum(-1) * scale  # (B, H, L)
        mass = 1 if sinks is None else 1 - torch.exp(sinks.to(lse.dtype)[:, None] - lse)
        most = math.log(max(1, k.shape[2] + (0 if sinks is None else 1)))
        return self._layout.unfold(torch.where(empty, 0, mass * lse - score).clamp(0, most))

    def _times(self, x: Tensor) -> Tensor:
        """``A @ x`` before dropout: x (B or 1, H, Hkv or 1, S, N) to (B, H, L, N)."""
        q, k, bias, sinks = self._tensors
        if not x.dtype.is_floating_point:
            x = x.to(self._lse.dtype)
        dtype = torch.promote_types(q.dtype, x.dtype)
        if x.shape[1] == q.shape[1] != k.shape[1]:
            k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)  # (B, Hkv, S, D) -> (B, H, S, D)
        x = x.to(dtype).expand(q.shape[0], k.shape[1], -1, -1)
        call = self._call._replace(dropout=0.0, seed=None, impl="auto")
        out: Tensor = torch.ops.regard.attend(q.to(dtype), k.to(dtype), x, bias, sinks, *call)[0]
        return out


def _outside(name: str) -> Callable[..., Any]:
    """A question that is not answered in a graph: outside of one, what the class of all weights does."""
    method = getattr(AttentionWeights, name)

    @wraps(method)
    def call(self: TracedWeights, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            from regard.ungraphed import ask

            return ask(self, name, *args, **kwargs)
        return method(self, *args, **kwargs)

    return call


for _name in ("received", "pool", "topk", "diagonal", "distance", "mass", "max_logit", "detach", "to_dense"):
    setattr(TracedWeights, _name, _outside(_name))
TracedWeights.__getitem__ = _outside("__getitem__")  # type: ignore[method-assign]
