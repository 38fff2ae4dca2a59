"""The same attention across processes: a text cut over ranks, on torch.distributed."""

from __future__ import annotations

from regard.distributed.attend import Strategy
from regard.distributed.failures import PeerError
from regard.distributed.order import Order
from regard.distributed.parallel import ContextParallel, context_parallel
from regard.distributed.weights import ShardedWeights

__all__ = ["ContextParallel", "Order", "PeerError", "ShardedWeights", "Strategy", "context_parallel"]
