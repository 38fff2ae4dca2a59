"""The weights of a text that is cut over ranks: what can be asked of them, equal to what one rank would answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from regard import asking, folds
from regard.asking import Question
from regard.distributed.order import pieces, positions
from regard.distributed.sharded import Sharding
from regard.distributed.traffic import Ranks
from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import Block, blocks
from regard.folds import Fold, Rows, TopK
from regard.layout import Layout
from regard.precision import outside_autocast

if TYPE_CHECKING:
    from regard.distributed.parallel import ContextParallel

__all__ = ["ShardedWeights"]


class ShardedWeights:
    """The weights (..., H, L, S) of a text that is cut over ranks, never stored, as :class:`regard.AttentionWeights`.

    Every method is asked on all ranks together. What is a number a row comes for this rank's queries, (..., H, L /
    world), as :meth:`ContextParallel.shard` cuts them; what is of keys or of the whole map comes whole, on every rank.
    Nothing here carries a gradient.

    Attributes:
        shape: (..., H, L, S), of the whole.
        lse: log-sum-exp of each of this rank's rows, sinks included, (..., H, L / world).
        mask: the :class:`regard.masks.Mask` of the whole, or None.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        lse: Tensor,
        sharding: Sharding,
        ranks: Ranks,
        layout: Layout,
        parallel: ContextParallel,
    ) -> None:
        self._q, self._k, self._lse = q, k, lse
        self._sharding, self._ranks, self._layout, self._parallel = sharding, ranks, layout, parallel
        self._versions = self._counted()
        self.mask = sharding.mask

    @property
    def shape(self) -> torch.Size:
        """(..., H, L, S), or (..., L, S) for inputs without heads."""
        sizes = self._sharding.sizes
        heads = () if self._layout.headless else (sizes.heads,)
        return torch.Size((*self._layout.batch_shape, *heads, sizes.query_len, sizes.key_len))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of query; statistics are float32 at least."""
        return self._q.dtype

    @property
    def device(self) -> torch.device:
        """The device of query."""
        return self._q.device

    @property
    def queries(self) -> Tensor:
        """The positions of this rank's queries in the text, (L / world,)."""
        return positions(
            self._sharding.sizes.query_len, self._ranks.rank, self._ranks.world, self._sharding.order, self.device
        )

    @property
    def lse(self) -> Tensor:
        """The log-sum-exp of each of this rank's rows, (..., H, L / world)."""
        return self._layout.unfold(self._lse)

    def detach(self) -> ShardedWeights:
        """Themselves: nothing here carries a gradient."""
        return self

    def entropy(self) -> Tensor:
        """The entropy of each of this rank's rows in nats, (..., H, L / world)."""
        return self._one("entropy")

    def max_logit(self) -> Tensor:
        """The largest score of each of this rank's rows, (..., H, L / world)."""
        return self._one("max_logit")

    def distance(self) -> Tensor:
        """The mean distance of what each of this rank's rows reads, in tokens, (..., H, L / world)."""
        return self._one("distance")

    def mass(self, keys: int | slice | list[int] | Tensor) -> Tensor:
        """The weight of each of this rank's rows on a set of keys of the whole text, (..., H, L / world)."""
        return self._one("mass", keys)

    def topk(self, k: int) -> TopK:
        """The k largest weights of each of this rank's rows, and the positions of their keys in the whole text."""
        found: TopK = self.ask(("topk", k))[0]
        return found

    def received(self) -> Tensor:
        """The weight that each key of the text receives, (..., H, S), on every rank."""
        return self._one("received")

    def pool(self, rows: int, cols: int, reduce: str = "mean") -> Tensor:
        """The map of rows x cols cells, (..., H, rows, cols), on every rank; as :meth:`AttentionWeights.pool`."""
        return self._one("pool", rows, cols, reduce)

    def _one(self, name: str, *given: Any) -> Tensor:
        found: Tensor = self.ask((name, *given))[0]
        return found

    @outside_autocast
    @torch.no_grad()
    def ask(self, *questions: Question) -> tuple[Any, ...]:
        """Several questions in one pass of the keys over the ranks: names, or tuples of a name and its arguments.

        ::

            entropy, received, map = weights.ask("entropy", "received", ("pool", 64, 64))

        Raises:
            TypeError, ValueError: as :meth:`regard.AttentionWeights.ask`; "diagonal" and functions are not answered.
        """
        asked = asking.folds_of(self, questions)
        summed = [_of_parts(fold) for fold in asked]
        self._check()
        sizes = self._sharding.sizes
        whole = Problem(
            self._q[:, :, :1].expand(-1, -1, sizes.query_len, -1), self._k[:, :, :1].expand(-1, -1, sizes.key_len, -1)
        )
        for fold in summed:
            fold.begin(whole, compute_dtype(self.dtype))
        for owner, k in self._passing():
            for at in self._sharding.parts(owner):
                problem = self._sharding.problem(at, self._q, k)
                row = self._start(at.rows, self._ranks.rank, sizes.query_len)
                key = self._start(at.keys, owner, sizes.key_len)
                for block in blocks(problem, self._lse[:, :, at.rows]):
                    _feed(block, self._lse[:, :, at.rows], row, key, summed)
        return tuple(self._answer(fold) for fold in summed)

    @outside_autocast
    @torch.no_grad()
    def rows(self, queries: Sequence[int] | Tensor) -> Tensor:
        """The whole rows of some queries of the text, (..., H, n, S), on every rank: O(n S) memory.

        Args:
            queries: positions in the text, n integers.

        Raises:
            IndexError: a position that is not in the text.
        """
        self._check()
        sizes = self._sharding.sizes
        wanted = torch.as_tensor(queries, device=self.device, dtype=torch.long).flatten()
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < sizes.query_len:
            raise IndexError(
                f"rows(queries): positions must lie in 0 .. L - 1 = {sizes.query_len - 1}, got {wanted.tolist()}"
            )
        dtype = compute_dtype(self.dtype)
        held = (self.queries == wanted[:, None]).nonzero()  # (m, 2): which of them, and where they lie here
        q = torch.zeros(*self._q.shape[:2], len(wanted), self._q.shape[-1] + 1, dtype=dtype, device=self.device)
        joined = torch.cat([self._q.to(dtype), self._lse[..., None].clamp(min=-1e30)], -1)  # 0 * -inf is NaN
        q[:, :, held[:, 0]] = joined[:, :, held[:, 1]]
        q = self._ranks.total(q)
        q, lse = q[..., :-1], q[..., -1:]  # (B, H, n, D), (B, H, n, 1)
        group = sizes.heads // self._k.shape[1]
        k = self._k.to(dtype).repeat_interleave(group, 1)  # (B, H, C, D)
        scores = q @ k.mT * self._sharding.scale  # (B, H, n, C)
        if self._sharding.softcap is not None:
            scores = torch.tanh(scores / self._sharding.softcap) * self._sharding.softcap
        found = torch.exp(scores - lse)
        if self.mask is not None:
            b, h = (torch.arange(n, device=self.device) for n in (sizes.batch, sizes.heads))
            kv = positions(sizes.key_len, self._ranks.rank, self._ranks.world, self._sharding.order, self.device)
            at = b.view(-1, 1, 1, 1), h.view(-1, 1, 1), wanted.view(-1, 1), kv
            found = torch.where(self.mask.allowed(*at, sizes), found, 0)
        return self._layout.unfold(self._parallel.unshard(found, -1).to(self.dtype))

    def _passing(self) -> Iterator[tuple[int, Tensor]]:
        """The keys of every rank that this one needs, one owner after the other."""
        rank, world, k = self._ranks.rank, self._ranks.world, self._k
        for hop in range(self._sharding.hops + 1):
            moving = None
            if hop < self._sharding.hops:
                moving = self._ranks.rotate([k], (rank + 1) % world, (rank - 1) % world)
            yield (rank - hop) % world, k
            if moving is not None:
                (k,) = moving.wait()

    def _start(self, local: slice, rank: int, length: int) -> int:
        """Where in the text the first token of a piece that ``rank`` holds stands."""
        size = local.stop - local.start
        start: int = pieces(length, rank, self._ranks.world, self._sharding.order)[local.start // size].start
        return start

    def _answer(self, fold: Fold) -> Any:
        if isinstance(fold, folds.Received | folds.Pool):
            largest = isinstance(fold, folds.Pool) and fold.reduce == "max"
            total = self._ranks.total(fold.result(), dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
            return self._layout.unfold(total)
        mine = self.queries
        if isinstance(fold, folds.TopRows):
            found = fold.result()
            return TopK(*(self._layout.unfold(t[:, :, mine]) for t in found))
        return self._layout.unfold(fold.result()[:, :, mine])

    def _counted(self) -> tuple[int, ...]:
        return tuple(-1 if t.is_inference() else t._version for t in (self._q, self._k)) + self._sharding.versions()

    def _check(self) -> None:
        names = ("query", "key", *["mask"] * 8)
        for name, before, now in zip(names, self._versions, self._counted(), strict=False):
            if before != now:
                raise RuntimeError(
                    f"{name} was written to after attention() returned these weights, which are computed from it on "
                    f"demand; ask before the write, or pass {name}.clone()"
                )

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask={self.mask!r}"
        share = f"rank {self._ranks.rank} of {self._ranks.world}"
        return f"ShardedWeights({' x '.join(map(str, self.shape))}, {str(self.dtype)[6:]}{mask}; {share})"


class _TopRows(folds.TopRows):
    """The k largest weights of rows whose keys come in several blocks."""

    def join(self, at: tuple[slice, ...], indices: Tensor, found: TopK, rows: Rows) -> None:
        whole = (*at[:3], slice(None))
        values = torch.cat([self.values[whole], (found.values - rows.shift).exp()], -1)  # (b, h, R, k + k')
        keys = torch.cat([self.indices[whole], indices], -1)
        best = torch.topk(torch.where(keys < 0, -1, values), self.k, dim=-1)
        self.values[whole] = best.values.clamp(min=0)
        self.indices[whole] = keys.gather(-1, best.indices)


def _of_parts(fold: Fold) -> Fold:
    return _TopRows(fold.k) if isinstance(fold, folds.TopRows) else fold


def _feed(block: Block, lse: Tensor, row: int, key: int, summed: list[Fold]) -> None:
    """Give a block to the folds at its place in the whole text."""
    at = Block(block.b, block.h, _moved(block.rows, row), _moved(block.keys, key), block.log)
    base = lse[block.b, block.h, block.rows, None]  # (b, h, R, 1)
    base = torch.where(base == -torch.inf, 0, base)
    rows = Rows(at, block.log, block.log.exp(), torch.zeros_like(base), base)
    for fold in summed:
        fold.add(rows)


def _moved(at: slice, by: int) -> slice:
    return slice(at.start + by, at.stop + by)
