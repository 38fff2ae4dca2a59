"""What will run: decided once, before anything runs, and readable afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.engine import kernels
from regard.engine.problem import Problem
from regard.engine.tiles import Tile, compile_tiles

__all__ = ["Plan", "make_plan"]

# Below this many scores, and with widths that no fused op takes as they are, one block of plain PyTorch is the fastest there is.
SMALL = 1 << 16


@dataclass(frozen=True)
class Plan:
    """What ran: ``kernel`` is "flash" (PyTorch's fused op), "rows" (blocks of rows) or "reference" (the L x S matrix)."""

    kernel: str
    reason: str
    tiles: tuple[Tile, ...] = ()
    entries: int = 0

    @property
    def share(self) -> float:
        """The share of the L x S entries that the tiles compute; 1.0 where there are no tiles to count."""
        return sum(t.entries for t in self.tiles) / self.entries if self.entries and self.kernel == "flash" else 1.0

    def __str__(self) -> str:
        if self.kernel != "flash":
            return f"{self.kernel}: {self.reason}"
        kinds = [t.kind for t in self.tiles]
        counts = " + ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "no"
        return f"flash: {self.reason}, {counts} tile{'s' if len(kinds) != 1 else ''}, {self.share:.0%} of the entries"


def make_plan(problem: Problem, v: Tensor, impl: str) -> Plan:
    """The plan for a problem; impl "fused" refuses what has no fused op, and says why."""
    if impl == "reference":
        return Plan("reference", "the definition, with L x S memory, as asked")
    reason = _not_fused(problem, v)
    if reason is not None and impl == "fused":
        raise ValueError(f'impl="fused": {reason}; use impl="auto", which runs it in blocks of rows in O(L) memory')
    b, h, query_len, key_len = problem.dims
    if reason is None and impl == "auto" and v.shape[-1] != problem.q.shape[-1] and b * h * query_len * key_len <= SMALL:
        reason = f"widths D={problem.q.shape[-1]} and Dv={v.shape[-1]} differ and the problem is one small block"
    if reason is not None:
        return Plan("rows", reason)
    return Plan("flash", f"PyTorch's fused op on {problem.q.device.type}", compile_tiles(problem), query_len * key_len)


def _not_fused(problem: Problem, v: Tensor) -> str | None:
    options = problem.options
    if options.softcap is not None:
        return "softcap has no fused op"
    if options.dropout > 0:
        return "dropout has no fused op that can be replayed in the backward pass"
    return kernels.unavailable(v.device)
