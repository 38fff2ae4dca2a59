"""The numbers of a module: the float64 truth goes through its projections, or is compared between them."""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.check.adapt.inside import Seen, watched
from regard.check.adapt.projections import Projections
from regard.check.definition import Core
from regard.check.request import Request
from regard.check.subject import Subject
from regard.check.violation import Unsupported

__all__ = ["Projected"]


class Projected(Subject):
    """A subject with projections before its attention and, mostly, one after it.

    Attributes:
        projections: these, or why they were not found.
        heads: the number of query heads.
        inside: whether numbers are compared between the projections, because there is more around them.
        layout: of what it reads and gives.
        width: of x.
    """

    projections: Projections | str
    heads: int
    inside: bool
    layout: str
    width: int

    @abc.abstractmethod
    def _module(self, dtype: torch.dtype) -> nn.Module:
        """The module, or its copy in another precision."""

    @property
    def out_width(self) -> int:
        """The width of the output."""
        if isinstance(self.projections, Projections):
            return (self.projections.out or self.projections.v)[0].shape[0]
        return self.width

    def imagine(self, core: Core, request: Request) -> Tensor:
        """Project in float64, let ``core`` attend, join the heads and project back."""
        return self.join(core(self.split(request), self.contract))

    def yardstick(self, core: Core, request: Request) -> Tensor:
        """Projections and ``core`` in the precision of the request."""
        dtype = request.query.dtype
        return self.join(core(self.split(request, dtype), self.contract))

    def numbers(self, request: Request, *, seed: int | None = None) -> Tensor:
        """The output; what the output projection reads where there is more around it, (B, 1, L, H * Dv)."""
        if not self.inside:
            return super().numbers(request, seed=seed)
        assert isinstance(self.projections, Projections)
        (name,) = self.projections.layers["out"]
        return self._batch_first(self.seen(request, seed=seed)[name][0], request.query.shape[0])[:, None]

    def seen(self, request: Request, *, seed: int | None = None) -> Seen:
        """What each projection reads and gives when this is asked."""
        assert isinstance(self.projections, Projections)
        module = self._module(request.query.dtype)
        with watched(getattr(module, "_orig_mod", module), self.projections.layers) as seen:
            self.answers(request, seed=seed)
        missing = [name for names in self.projections.layers.values() for name in names if name not in seen]
        if missing:
            raise Unsupported(f"its layer {missing[0]} is not called as a layer")
        return seen

    def has_more_around(self, request: Request) -> bool:
        """Whether something is done to x before the projections, or to the output after them."""
        p = self.projections
        if isinstance(p, str) or "out" not in p.layers:
            return False
        try:
            seen = self.seen(request)
        except Unsupported:
            return False
        first = next(name for role in ("q", "qkv") for name in p.layers.get(role, ()))
        batch = request.query.shape[0]
        read, given = (self._batch_first(seen[layer][n], batch) for n, layer in ((0, first), (1, p.layers["out"][0])))
        output = self.answers(request).output[:, 0]
        return not (
            torch.equal(read, request.query[:, 0]) and given.shape == output.shape and torch.equal(given, output)
        )

    def _batch_first(self, t: Tensor, batch: int) -> Tensor:
        """(B, L, E) of what a projection reads or gives: a module may turn its axes before it projects."""
        if t.dim() == 2:
            return t[None]
        if t.dim() != 3:
            raise Unsupported(f"its projections read {t.dim()} axes")
        turned = t.shape[0] != batch and t.shape[1] == batch
        return t.transpose(0, 1) if turned else t

    def split(self, request: Request, dtype: torch.dtype = torch.float64) -> Request:
        """The queries, keys and values of single heads, (B, H, L, D)."""
        p = self.projections
        if isinstance(p, str):
            raise Unsupported(f"its numbers cannot be compared with the definition: {p}")
        width = p.q[0].shape[0] // self.heads
        if p.q[0].shape[0] % self.heads or p.k[0].shape[0] % width:
            raise Unsupported(f"its projections do not divide into {self.heads} heads: declare Contract(heads=)")
        kv_heads = p.k[0].shape[0] // width
        rows = self._rows(request, p, dtype)
        q, k, v = (
            t.unflatten(-1, (number, -1)).transpose(1, 2)  # (B, L, H * D) -> (B, L, H, D) -> (B, H, L, D)
            for t, number in zip(rows, (self.heads, kv_heads, kv_heads), strict=True)
        )
        return request.but(query=q, key=k, value=v)

    def _rows(self, request: Request, p: Projections, dtype: torch.dtype) -> list[Tensor]:
        """Queries, keys and values of all heads, (B, L, H * D): computed, or as they were seen."""
        if not self.inside:
            inputs = zip((request.query, request.key, request.value), (p.q, p.k, p.v), strict=True)
            return [_apply(linear, t[:, 0].to(dtype)) for t, linear in inputs]
        seen = self.seen(request.map(lambda t: t.detach()))
        given = {
            role: torch.cat([self._batch_first(seen[name][1], request.query.shape[0]) for name in names], -1)
            .detach()
            .to(dtype)
            for role, names in p.layers.items()
        }
        sizes = [linear[0].shape[0] for linear in (p.q, p.k, p.v)]
        if "qkv" in given and p.arrangement == "q|k|v":
            return list(given["qkv"].split(sizes, -1))
        if "qkv" in given:
            parts = given["qkv"].unflatten(-1, (self.heads, 3, -1))  # (B, L, H, 3, D)
            return [parts[..., n, :].flatten(-2) for n in range(3)]
        if "kv" in given:
            return [given["q"], *given["kv"].split(sizes[1:], -1)]
        return [given["q"], given["k"], given["v"]]

    def join(self, heads: Tensor) -> Tensor:
        """(B, H, L, Dv) -> (B, 1, L, E)."""
        assert isinstance(self.projections, Projections)
        joined = heads.transpose(1, 2).flatten(2)  # (B, H, L, Dv) -> (B, L, H * Dv)
        if self.projections.out is not None and not self.inside:
            joined = _apply(self.projections.out, joined)
        return joined[:, None]


def _apply(linear: tuple[Tensor, Tensor | None], t: Tensor) -> Tensor:
    """The layer in the precision of its input."""
    weight, bias = linear
    return F.linear(t, weight.detach().to(t.dtype), None if bias is None else bias.detach().to(t.dtype))
