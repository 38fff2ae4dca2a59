"""regard: attention you can read, check and look at, at the speed of the fused kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regard import biases, masks, positions
from regard.cache import KVCache, RollingCache
from regard.context import Context
from regard.functional import attention, attention_weights
from regard.latent_attention import LatentAttention
from regard.latent_cache import LatentCache
from regard.multi_head import MultiHeadAttention
from regard.positions import PositionalEncoding
from regard.qk_norm import QKNorm
from regard.rollout import Rollout, rollout
from regard.self_attention import SelfAttention
from regard.weights import AttentionWeights

if TYPE_CHECKING:
    from regard.check.package import Package
    from regard.look.package import Package as LookPackage
    from regard.watch.package import Package as WatchPackage

    check: Package
    look: LookPackage
    watch: WatchPackage

__version__ = "0.1.0"

__all__ = [
    "AttentionWeights",
    "Context",
    "KVCache",
    "LatentAttention",
    "LatentCache",
    "MultiHeadAttention",
    "PositionalEncoding",
    "QKNorm",
    "RollingCache",
    "Rollout",
    "SelfAttention",
    "__version__",
    "attention",
    "attention_weights",
    "biases",
    "check",
    "hf",
    "look",
    "masks",
    "models",
    "positions",
    "rollout",
    "watch",
]


def __getattr__(name: str) -> Any:
    # What stands on the core is imported when it is first asked for: `import regard` brings in the core alone.
    if name in ("check", "hf", "look", "models", "watch"):
        import importlib

        return importlib.import_module(f"regard.{name}")
    raise AttributeError(f"module 'regard' has no attribute {name!r}")
