"""The same attention across processes: a text cut over ranks, or the heads of a layer, on torch.distributed."""

from __future__ import annotations

from regard.distributed.attend import Strategy
from regard.distributed.checkpoints import load, save
from regard.distributed.failures import PeerError
from regard.distributed.order import Order
from regard.distributed.parallel import ContextParallel, context_parallel
from regard.distributed.tensor_parallel import HeadParallel, HiddenParallel, tensor_plan
from regard.distributed.unfused import unfuse
from regard.distributed.weights import ShardedWeights

__all__ = [
    "ContextParallel",
    "HeadParallel",
    "HiddenParallel",
    "Order",
    "PeerError",
    "ShardedWeights",
    "Strategy",
    "context_parallel",
    "load",
    "save",
    "tensor_plan",
    "unfuse",
]
