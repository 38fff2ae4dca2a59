"""A text cut over the ranks of a mesh: ``context_parallel`` and what it gives."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.overrides import TorchFunctionMode

from regard import functional, validation
from regard.bias_columns import Bias, joined
from regard.distributed import heads as by_heads
from regard.distributed import placed
from regard.distributed.agreement import agree
from regard.distributed.attend import Strategy, attend
from regard.distributed.inside import HANDLERS, check_checkpoint
from regard.distributed.order import Order, pieces, positions
from regard.distributed.sharded import Sharding
from regard.distributed.traffic import Ranks, group_of
from regard.distributed.weights import ShardedWeights
from regard.layout import Layout
from regard.masks.algebra import Mask, Sizes
from regard.masks.parts import of_heads
from regard.positions.placing import rotated
from regard.precision import outside_autocast

__all__ = ["ContextParallel", "context_parallel"]

# Keys and values of a whole text, in bytes, up to which they are gathered at once: fewer messages, and little memory.
GATHERED = 1 << 26


def context_parallel(
    mesh: DeviceMesh | dist.ProcessGroup | None = None, *, strategy: Strategy | None = None, order: Order = "zigzag"
) -> ContextParallel:
    """A text cut over ranks, each with its share of queries, keys and values; attention is exact, forward and backward.

    ``out_i = sum_r exp(lse_ir - lse_i) out_ir`` with ``lse_i = logsumexp_r lse_ir``, over the shares r of the keys

    Used as a context, every :func:`regard.attention` in it, also inside :class:`regard.MultiHeadAttention`, takes its
    query, key and value for this rank's share::

        parallel = regard.distributed.context_parallel(mesh["context"])
        mine = parallel.shard(x, dim=1)  # (B, L, d) -> (B, L / world, d)
        with parallel:
            output = layer(mine, mask=regard.masks.causal())
        whole = parallel.unshard(output, dim=1)

    Positions of layers and of embeddings, rotary ones and those that are added, are those of the whole text; an
    ``offset=`` is where its first token stands. A mask is that of the whole text, the same on every rank. Work that it
    forbids is not done, and keys that no rank needs are not sent.

    Args:
        mesh: a mesh of one dimension, ``mesh["context"]`` of a larger one, or a process group; all processes if None.
        strategy: "ring" (keys go from rank to rank, memory 1 / world), "gather" (all keys to all ranks, one exchange)
            or "heads" (each rank takes some heads of the whole text; the heads of query and key must divide by the
            ranks). None: "gather" where the keys and values of the whole text are at most 64 MiB, else "ring".
        order: "zigzag", which makes the work under a causal mask even, or "contiguous".

    Raises:
        TypeError: no mesh and no process group.
        ValueError: a mesh of several dimensions, an unknown strategy or order, no process group at all.

    References:
        Liu, Zaharia and Abbeel, Ring Attention with Blockwise Transformers, 2023; Jacobs et al., DeepSpeed Ulysses,
        2023; Brandon et al., Striped Attention, 2023 (even work under a causal mask).
    """
    return ContextParallel(group_of(mesh), strategy, order)


class ContextParallel(TorchFunctionMode):
    """What :func:`context_parallel` gives: the share of this rank, and attention over all shares.

    Attributes:
        rank: this process's place among the ranks.
        world: how many there are.
        strategy: as given.
        order: as given.
    """

    #: For a watch: what is called in this mode is given a share of a text.
    cuts_text = True

    def __init__(self, group: dist.ProcessGroup, strategy: Strategy | None, order: Order) -> None:
        super().__init__()
        if strategy not in (None, *get_args(Strategy)):
            raise ValueError(f"strategy must be None, 'ring', 'gather' or 'heads', got {strategy!r}")
        if order not in get_args(Order):
            raise ValueError(f"order must be 'zigzag' or 'contiguous', got {order!r}")
        self.strategy, self.order = strategy, order
        self._ranks = Ranks(group)
        self._stances: list[ExitStack] = []
        self.rank, self.world = self._ranks.rank, self._ranks.world

    @property
    def sent(self) -> int:
        """Bytes that this rank has sent to others so far."""
        return self._ranks.sent

    def positions(self, length: int, *, device: torch.device | None = None) -> Tensor:
        """The position in a text of ``length`` tokens of each that this rank holds, (length / world,)."""
        return positions(length, self.rank, self.world, self.order, device)

    def shard(self, x: Tensor, dim: int) -> Tensor:
        """This rank's share of a tensor that every rank has whole, cut along ``dim``; differentiable on this rank.

        Raises:
            ValueError: a length that does not divide into equal pieces, naming the nearest that does.
        """
        return torch.cat([x.narrow(dim, p.start, p.stop - p.start) for p in self.pieces(x.shape[dim])], dim)

    @torch.no_grad()
    def unshard(self, x: Tensor, dim: int) -> Tensor:
        """The whole of what each rank has a share of, along ``dim``, on every rank; carries no gradient."""
        shares = self._ranks.gather(x.detach())
        length = x.shape[dim] * self.world
        cut = []
        for rank, share in enumerate(shares):
            start = 0
            for p in pieces(length, rank, self.world, self.order):
                cut.append((p.start, share.narrow(dim, start, p.stop - p.start)))
                start += p.stop - p.start
        return torch.cat([piece for _, piece in sorted(cut, key=lambda each: each[0])], dim)

    def pieces(self, length: int) -> tuple[slice, ...]:
        """The intervals of a text of ``length`` tokens that this rank holds, in the order in which it does.

        Raises:
            ValueError: a length that does not divide into equal pieces, naming the nearest that does.
        """
        return pieces(length, self.rank, self.world, self.order)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | Tensor | None = None,
        *,
        bias: Bias | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        dropout: float = 0.0,
        impl: str = "auto",
    ) -> tuple[Tensor, ShardedWeights]:
        """:func:`regard.attention` of a text of which query, key and value are this rank's share.

        Args:
            query: (..., H, L / world, D), as :meth:`shard` cuts it.
            key: (..., Hkv, S / world, D).
            value: (..., Hkv, S / world, Dv).
            mask: that of the whole text, the same on every rank: a :class:`regard.masks.Mask` or a boolean tensor that
                broadcasts to (..., H, L, S); True = may attend.
            bias: of low rank, from :mod:`regard.biases`, for the whole text.
            scale: as in :func:`regard.attention`.
            softcap: likewise.
            sinks: likewise, (H,), the same on every rank. Their gradient is this rank's share of it.
            dropout: 0 only: which weights are dropped would depend on how the text is cut.
            impl: "auto" only.

        Returns:
            The output (..., H, L / world, Dv), and the :class:`ShardedWeights` of this rank's queries.

        Raises:
            TypeError, ValueError: as :func:`regard.attention`, and shapes or options that differ between ranks, on all
                of them.
            PeerError: another rank ended or did not answer in time.
        """
        options = {"bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks, "dropout": dropout, "impl": impl}
        return _attention(query, key, value, mask, self, **options)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(self, func, *args, **(kwargs or {}))
        if func is rotated:
            return placed.rotate(self, func, *args, **(kwargs or {}))
        if hasattr(func, "adds_positions"):
            return placed.add(self, func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> ContextParallel:
        # A compiled graph knows nothing of a mode: it would attend to this rank's share alone.
        stance = ExitStack()
        stance.enter_context(torch.compiler.set_stance("force_eager"))
        self._stances.append(stance)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stances.pop().close()

    def _chosen(self, q: Tensor, k: Tensor, v: Tensor) -> Strategy:
        if self.strategy == "heads":
            for name, count in (("query", q.shape[1]), ("key", k.shape[1])):
                if count % self.world:
                    raise ValueError(
                        f"strategy='heads' gives each of {self.world} ranks an equal number of heads, got {count} "
                        f"heads of {name}; use strategy='ring', which cuts no heads"
                    )
        if self.strategy is not None:
            return self.strategy
        share = sum(t.numel() * t.element_size() for t in (k, v))
        return "gather" if share * self.world <= GATHERED else "ring"

    def _with_bias(
        self, bias: Bias, q: Tensor, k: Tensor, mask: Mask | None, scale: float, softcap: float | None, sizes: Sizes
    ) -> tuple[Tensor, Tensor, float]:
        """The columns of a bias of the whole text, those of this rank's queries and keys before theirs."""
        if softcap is not None or scale == 0:
            raise ValueError(f"bias={bias!r}: with context_parallel it goes with no softcap and no scale of 0")
        bias.check_mask(mask, sizes)
        lengths = sizes.query_len, sizes.key_len
        # Tensors of the whole text's shape that take the memory of one token.
        like_q, like_k = (t[:, :, :1].detach().expand(-1, -1, n, -1) for t, n in zip((q, k), lengths, strict=True))
        rows, cols = bias.columns(like_q, like_k, scale)
        rows, cols = (t[..., self.positions(n), :] for t, n in zip((rows, cols), lengths, strict=True))
        return joined(rows, cols, q, k, scale)

    def _by_heads(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, sharding: Sharding
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (by_heads.to_heads(t, self._ranks, self.order) for t in (q, k, v))
        first = self.rank * q.shape[1]
        some = slice(first, first + q.shape[1])
        mask = None if sharding.mask is None else of_heads(sharding.mask, some)
        sinks = None if sinks is None else sinks[some]
        options: Any = {"scale": sharding.scale, "softcap": sharding.softcap, "sinks": sinks}
        # These are whole texts: no context that this is called in has anything to say of them.
        with torch._C.DisableTorchFunction(), torch.compiler.set_stance("default"):
            out, weights = functional.attention(q, k, v, mask, **options)
        lse = by_heads.to_tokens(weights.lse[..., None], self._ranks, self.order)  # (B, H, R, 1)
        return by_heads.to_tokens(out, self._ranks, self.order), lse[..., 0]

    def __repr__(self) -> str:
        return f"ContextParallel(rank {self.rank} of {self.world}, strategy={self.strategy!r}, order={self.order!r})"


def _check(bias: Any, dropout: float, impl: str) -> None:
    if bias is not None and not isinstance(bias, Bias):
        raise TypeError(
            f"bias must be of low rank, from regard.biases, with context_parallel, got {type(bias).__name__}: a bias "
            "of L x S numbers does not fit what is cut over ranks; what forbids is a mask"
        )
    if dropout:
        raise ValueError(
            f"dropout must be 0 with context_parallel, got {dropout}: which weights are dropped would depend on how "
            "the text is cut; call .eval(), or make the layer with dropout=0.0"
        )
    if impl != "auto":
        raise ValueError(f'impl must be "auto" with context_parallel, got {impl!r}')


@outside_autocast
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None,
    parallel: ContextParallel,
    *,
    bias: Any,
    scale: Any,
    softcap: Any,
    sinks: Any,
    dropout: Any,
    impl: Any,
) -> tuple[Tensor, ShardedWeights]:
    """:meth:`ContextParallel.attention`, which says what it takes and gives."""
    refused, text = None, ""
    try:
        check_checkpoint()
        validation.check_tensors(query, key, value)
        _check(bias, dropout, impl)
        validation.check_number(scale, "scale")
        validation.check_number(softcap, "softcap", positive=True)
        layout = Layout.of(query)
        q, k, v = layout.fold(query), layout.fold(key), layout.fold(value)  # (B, H, R, D), (B, Hkv, C, D or Dv)
        lengths = q.shape[2] * parallel.world, k.shape[2] * parallel.world
        sizes = Sizes(layout.batch_shape, q.shape[1], *lengths, q.device, layout.headless)
        for length in lengths:
            parallel.pieces(length)
        if sinks is not None:
            validation.check_sinks(sinks, q.shape[1], query)
        bound = None if mask is None else functional.as_mask(mask).bind(sizes)
        strategy = parallel._chosen(q, k, v)
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *([] if sinks is None else [sinks])))
        text = (
            f"mask={bound!r}, scale={scale}, softcap={softcap}, sinks={sinks is not None}, bias={bias!r}, "
            f"strategy={strategy!r}, order={parallel.order!r}, gradients={graph}"
        )
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
        if bias is not None:
            q, k, scale = parallel._with_bias(bias, q, k, bound, scale, softcap, sizes)
    except Exception as error:  # whatever it is, the others must not wait
        refused = error
    agree(parallel._ranks, (query, key, value), text, refused)
    sharding = Sharding(parallel.rank, parallel.world, parallel.order, bound, sizes, scale or 0.0, softcap)
    if strategy == "heads":
        out, lse = parallel._by_heads(q, k, v, sinks, sharding)
    else:
        out, lse = attend(q, k, v, sinks, sharding, parallel._ranks, strategy)
    weights = ShardedWeights(q.detach(), k.detach(), lse.detach(), sharding, parallel._ranks, layout, parallel)
    return layout.unfold(out), weights
