"""The attention layer of one rank of several that share its heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from regard import biases, layer_checks
from regard.bias_columns import Bias
from regard.context import Context
from regard.distributed.tensor_projections import draw, share, shared
from regard.distributed.traffic import Ranks
from regard.masks.algebra import Mask
from regard.masks.parts import of_heads
from regard.masks.rules import Dense
from regard.multi_head import MultiHeadAttention
from regard.positions import ALiBi

__all__ = ["HeadALiBi", "HeadParallelAttention", "check_same", "mask_of_heads"]

# Numbers of x that ranks compare.
SOME = 4096


class HeadParallelAttention(MultiHeadAttention):
    """A :class:`regard.MultiHeadAttention` of which this rank has some heads; :class:`HeadParallel` makes it of one.

    x, a context and a mask are those of the whole layer, the same on every rank, and so is the output. Weights and
    caches are of this rank's heads, and so are num_heads, num_kv_heads, d_k and d_v.

    Attributes:
        heads: the heads of the whole layer that this rank has, a slice.
        all_heads: how many the whole layer has.
        mesh: the ranks.
    """

    heads: slice
    all_heads: int
    mesh: DeviceMesh
    _agrees: bool = False

    def forward(self, x: Tensor, context: Any = None, *, mask: Mask | Tensor | None = None, **options: Any) -> Any:
        """See :meth:`regard.MultiHeadAttention.forward`; need_weights gives the weights of this rank's heads."""
        if self.training and self.dropout:
            raise ValueError(
                f"dropout of weights must be 0 in a layer that is cut by heads, got {self.dropout}: heads of different "
                "ranks would drop alike; set layer.dropout = 0.0, or call .eval()"
            )
        if layer_checks.axes(x) == 2:  # comes again with a batch axis
            return super().forward(x, context, mask=mask, **options)
        mask = mask_of_heads(mask, self.heads, self.all_heads, x)
        if not self._agrees and not torch.compiler.is_compiling():
            check_same(x, self.mesh)
            self._agrees = True  # the first call finds a model of another seed; each call would cost an exchange
        share(self.sinks, "sinks")
        return super().forward(shared(x, self.mesh), self._shared(context), mask=mask, **options)

    def project_context(self, context: Tensor | tuple[Tensor, Tensor]) -> Context:
        """See :meth:`regard.MultiHeadAttention.project_context`; of this rank's heads."""
        return super().project_context(self._shared(context))

    def _reset_own(self) -> None:
        for last in [self.out_proj] if self.gate is None else [self.out_proj, self.gate_proj]:
            last.reset_parameters()
        for linear in self._projections():
            draw(linear.weight, nn.init.xavier_uniform_)
        for zero in (self.sinks, *(m.bias for m in self.modules() if isinstance(m, nn.Linear))):
            if zero is not None:
                nn.init.zeros_(zero)

    def _shared(self, context: Any) -> Any:
        if isinstance(context, Tensor):
            return shared(context, self.mesh)
        if isinstance(context, tuple | list) and all(isinstance(t, Tensor) for t in context):
            return tuple(shared(t, self.mesh) for t in context)
        return context

    def extra_repr(self) -> str:
        """As the layer's; which heads of the whole these are."""
        return f"{super().extra_repr()}, heads={self.heads.start}:{self.heads.stop} of {self.all_heads}"


def mask_of_heads(mask: Mask | Tensor | None, heads: slice, all_heads: int, x: Tensor | None) -> Mask | Tensor | None:
    """What a mask of the whole layer says of some heads; x is what the layer reads, None where that is not known."""
    if not isinstance(mask, Mask | Tensor):
        return mask
    if x is not None:
        # Asked of the whole: cut to fewer heads, a mask of two meanings may have one.
        key_len = mask.shape[-1] if isinstance(mask, Tensor) and mask.dim() else 0
        layer_checks.check_mask_axes(mask, all_heads, x, key_len)
    whole = Dense(mask) if isinstance(mask, Tensor) else mask
    found = whole._heads(1)
    if found not in (1, all_heads):
        raise ValueError(
            f"mask must be that of the whole layer, whose num_heads is {all_heads}, or one for all heads, got "
            f"{found} heads; each rank takes those of its own"
        )
    some = of_heads(whole, heads)
    return some.tensor if isinstance(mask, Tensor) and isinstance(some, Dense) else some


@torch.no_grad()
def check_same(x: Tensor, mesh: DeviceMesh) -> None:
    """Raise on all ranks where x is another one on some: sums over heads of different texts mean nothing."""
    if x.device.type == "meta":
        return
    some = x.detach().reshape(-1)[:: max(1, x.numel() // SOME)].double()  # (n,)
    turned = torch.arange(some.numel(), dtype=torch.float64, device=x.device)
    # Two projections and a norm: x may differ by rounding, where ranks are not of one kind.
    said = [some @ turned.cos(), some @ turned.sin(), some.norm(), torch.tensor(hash(tuple(x.shape)) % 2**31)]
    mine = torch.stack([number.to(x.device, torch.float64) for number in said])
    everybody = [found.tolist() for found in Ranks(mesh.get_group()).gather(mine)]
    first = everybody[0]
    for rank, theirs in enumerate(everybody):
        near = all(not abs(a - b) > 0.01 * first[2] for a, b in zip(theirs[:3], first[:3], strict=True))
        if theirs[3] != first[3] or not near:
            raise ValueError(
                f"x must be the same on every rank that shares the heads, got another on rank {rank} than on rank 0: "
                "make the whole model with one seed on all of them, or give it the parameters of one; give all the "
                "same tokens, and draw what is dropped with one seed"
            )


class HeadALiBi(ALiBi):
    """The slopes of some heads; what is saved of it is that of all."""

    def __init__(self, own: ALiBi, heads: slice) -> None:
        super().__init__(own.num_heads if own.slopes is None else own.slopes)
        self.heads, self.all_heads, self.num_heads = heads, own.num_heads, heads.stop - heads.start

    def bias(self, query_len: int, key_len: int, *, num_heads: int, **like: Any) -> Bias:
        """See :meth:`regard.positions.ALiBi.bias`."""
        self._check_heads(num_heads)
        if self.slopes is not None:
            return biases.alibi(self.slopes[self.heads])
        return biases.Alibi(biases.alibi(self.all_heads).slopes[self.heads])
