"""What a step costs: the bytes that each way sends, counted, and the time they take on machines that are not here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from regard.distributed.agreement import MESSAGE
from regard.distributed.attend import Strategy

__all__ = ["Attention", "Machine", "Step", "best", "crossings", "sent"]

# Sums over parts, and their log-sum-exp, are float32 at least.
WIDE = 4


@dataclass(frozen=True)
class Attention:
    """The attention of one layer over a text, in the letters of :func:`regard.attention`.

    Args:
        length: L, tokens of the whole text.
        num_heads: H.
        num_kv_heads: Hkv.
        head_dim: D and Dv.
        batch: B.
        element_size: bytes of an element of query, key, value and output.
        allowed: the share of the L x L pairs that the mask allows; 0.5 is causal.
    """

    length: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    batch: int = 1
    element_size: int = 2
    allowed: float = 0.5

    @property
    def flops(self) -> float:
        """Floating-point operations of the forward pass: two products of 2 D each a pair; the backward takes 2.5 times
        as many.
        """
        return 4.0 * self.batch * self.num_heads * self.head_dim * self.allowed * self.length**2


def sent(strategy: Strategy, attention: Attention, world: int, hops: int | None = None) -> tuple[int, int]:
    """The bytes that one rank sends to others in the forward and in the backward pass of one attention.

    With n = L / W tokens a rank, kv = 2 B Hkv n D elements and q = B H n D: "ring" sends kv once a hop, and in the
    backward pass kv once a hop and the gradients, float32, once a hop and home; "gather" kv to each other rank, and
    then kv again and the gradients of each other rank's; "heads" (W - 1) / W of q, kv, the output and the log-sum-exp,
    and then the same without the latter.

    >>> sent("ring", Attention(1024, 8, 4, 64), world=4)
    (787200, 2883584)

    Args:
        strategy: "ring", "gather" or "heads".
        attention: what is computed.
        world: how many ranks share the text, W.
        hops: how often keys move on, at most W - 1, which is it if None; a mask that needs less of them makes it less.

    Raises:
        ValueError: an unknown strategy, a length that does not divide by world.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be 'ring', 'gather' or 'heads', got {strategy!r}")
    if attention.length % world:
        raise ValueError(f"length must be a multiple of world={world}, got {attention.length}")
    a, tokens = attention, attention.length // world
    kv = 2 * a.batch * a.num_kv_heads * tokens * a.head_dim
    q = a.batch * a.num_heads * tokens * a.head_dim
    wide = max(WIDE, a.element_size)
    agreed = (world - 1) * MESSAGE  # that all ranks were given the same
    if strategy == "ring":
        hops = world - 1 if hops is None else hops
        home = hops + 1 if hops else 0
        return agreed + hops * kv * a.element_size, hops * kv * a.element_size + home * kv * wide
    others = world - 1
    if strategy == "gather":
        return agreed + others * kv * a.element_size, others * kv * (a.element_size + wide)
    lse = a.batch * a.num_heads * tokens
    forward = ((2 * q + kv) * a.element_size + lse * wide) * others // world
    # The log-sum-exp is not differentiated, and the output's gradient comes as wide as the output.
    return agreed + forward, (2 * q + kv) * a.element_size * others // world


@dataclass(frozen=True)
class Machine:
    """What a rank can do.

    Args:
        flops: floating-point operations a second that attention reaches.
        bandwidth: bytes a second that a rank sends to others while all do.
        latency: seconds before a message's first byte arrives.
        name: what it is called in a table.
    """

    flops: float
    bandwidth: float
    latency: float
    name: str = ""


@dataclass(frozen=True)
class Step:
    """The time of the forward and backward pass of one attention on ``world`` ranks, in seconds.

    Computing and sending go on together in "ring", where a hop takes the longer of both, and one after the other in
    "gather" and "heads".
    """

    strategy: Strategy
    attention: Attention
    machine: Machine
    world: int

    @property
    def compute(self) -> float:
        """Seconds of products on each rank, evenly shared."""
        return 3.5 * self.attention.flops / self.world / self.machine.flops

    @property
    def transfer(self) -> float:
        """Seconds of sending."""
        messages = {"ring": 3 * (self.world - 1) + 1, "gather": 4, "heads": 8}[self.strategy] if self.world > 1 else 0
        # Everybody to everybody in log2 W rounds at best.
        rounds = 1 if self.strategy == "ring" else max(1, (self.world - 1).bit_length())
        total = sum(sent(self.strategy, self.attention, self.world))
        return total / self.machine.bandwidth + messages * rounds * self.machine.latency

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return max(self.compute, self.transfer) if self.strategy == "ring" else self.compute + self.transfer

    @property
    def possible(self) -> bool:
        """Whether the strategy can be run: "heads" needs a key head for each rank, "gather" memory for all keys."""
        return self.strategy != "heads" or self.attention.num_kv_heads % self.world == 0


def best(attention: Attention, machine: Machine, world: int) -> Step:
    """The fastest of the ways that can be gone.

    >>> best(Attention(1 << 20, 64, 8, 128), Machine(4e14, 4.5e10, 1e-5), 64).strategy
    'ring'
    """
    steps = [Step(strategy, attention, machine, world) for strategy in get_args(Strategy)]
    return min((step for step in steps if step.possible), key=lambda step: step.seconds)


def crossings(
    attention: Attention, machine: Machine, worlds: Iterable[int] = (8, 16, 32, 64, 128, 256, 512, 1024)
) -> list[tuple[int, Strategy]]:
    """The fastest way for each number of ranks, where it changes: [(world, strategy), ...]."""
    found: list[tuple[int, Strategy]] = []
    for world in worlds:
        fastest = best(attention, machine, world).strategy
        if not found or found[-1][1] != fastest:
            found.append((world, fastest))
    return found
