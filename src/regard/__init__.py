"""regard: attention you can read, check and look at, at the speed of the fused kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regard import biases, masks
from regard.cache import KVCache, RollingCache
from regard.functional import attention, attention_weights
from regard.multi_head import MultiHeadAttention
from regard.positions import PositionalEncoding
from regard.rollout import Rollout, rollout
from regard.self_attention import SelfAttention
from regard.weights import AttentionWeights

if TYPE_CHECKING:
    from regard.check.package import Package

    check: Package

__version__ = "0.1.0"

__all__ = [
    "AttentionWeights",
    "KVCache",
    "MultiHeadAttention",
    "PositionalEncoding",
    "RollingCache",
    "Rollout",
    "SelfAttention",
    "__version__",
    "attention",
    "attention_weights",
    "biases",
    "check",
    "masks",
    "rollout",
]


def __getattr__(name: str) -> Any:
    # The checker is imported when it is first asked for: `import regard` brings in the core alone.
    if name == "check":
        import importlib

        return importlib.import_module("regard.check")
    raise AttributeError(f"module 'regard' has no attribute {name!r}")
