"""What will run: decided once, before anything runs, and readable afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.engine import kernels
from regard.engine.problem import Problem
from regard.engine.tiles import Tile, compile_tiles

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What ran: ``kernel`` is "flash" (PyTorch's fused op), "rows" (blocks of rows) or "reference" (L x S memory)."""

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
    if reason is not None:
        return Plan("rows", reason)
    ran = f"PyTorch's fused op on {problem.q.device.type}"
    if problem.bias is not None and problem.bias.requires_grad:
        ran += " (backward in blocks of rows, for the bias)"
    return Plan("flash", ran, compile_tiles(problem), problem.q.shape[2] * problem.k.shape[2])


def _not_fused(problem: Problem, v: Tensor) -> str | None:
    options = problem.options
    if options.softcap is not None:
        return "softcap has no fused op"
    if options.dropout > 0:
        return "dropout has no fused op that can be replayed in the backward pass"
    return kernels.unavailable(v.device)
