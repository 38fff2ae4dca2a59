"""regard: attention you can read, check and look at, at the speed of the fused kernels."""

from regard import masks
from regard.functional import attention
from regard.multi_head import MultiHeadAttention
from regard.positions import PositionalEncoding
from regard.rollout import Rollout, rollout
from regard.self_attention import SelfAttention
from regard.weights import AttentionWeights

__version__ = "0.1.0"

__all__ = [
    "AttentionWeights",
    "MultiHeadAttention",
    "PositionalEncoding",
    "Rollout",
    "SelfAttention",
    "__version__",
    "attention",
    "masks",
    "rollout",
]
