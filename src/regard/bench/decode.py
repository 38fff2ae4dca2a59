"""One step of decoding against a long cache, beside torch's grouped heads and beside reading the cache once."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.bench import exact
from regard.bench.case import Bar, Case, Duel
from regard.bench.compare import ULPS, close_to
from regard.bench.timing import Subject

__all__ = ["CASES", "decode_duel"]

Peer = Literal["torch", "read"]


def decode_duel(
    peer: Peer, key_len: int = 16384, *, num_heads: int = 32, num_kv_heads: int = 8, width: int = 128
) -> Duel:
    """Attention of one query (1, num_heads, 1, width) to keys and values (1, num_kv_heads, key_len, width).

    Args:
        peer: "torch", its grouped heads; or "read", the sum of the keys and of the values. No reduction of torch is
            faster at reading them once.
        key_len: S.
        num_heads: H.
        num_kv_heads: Hkv.
        width: D.
    """
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, num_heads, 1, width, generator=generator)
    k, v = torch.randn(2, 1, num_kv_heads, key_len, width, generator=generator).unbind()

    def ours(_: object) -> Tensor:
        return regard.attention(q, k, v)[0]

    def torchs(_: object) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    def read(_: object) -> tuple[Tensor, Tensor]:
        return k.sum(), v.sum()

    def check() -> str:
        # Heads of one group read the same keys, as the rows of one head do: (1, H, 1, D) -> (Hkv, H / Hkv, D).
        (block,) = exact.blocks(q.view(num_kv_heads, -1, width), k[0], v[0])
        worst = 0.0
        for name, out in {"regard.attention": ours(None), "SDPA": torchs(None)}.items():
            worst = max(worst, close_to(f"output of {name}", out.view_as(block.output), block.output, ulps=ULPS))
        return f"every head against float64: within {worst:.1e}"

    against = Subject("SDPA, enable_gqa", torchs) if peer == "torch" else Subject("reading K and V once", read)
    return Duel(Subject("regard.attention", ours), against, check)


SIZES = "one query, 32 heads over 8, D 128, S 16384"
CASES = (
    Case(
        "decode",
        "decoding",
        f"{SIZES}, beside SDPA enable_gqa",
        partial(decode_duel, "torch"),
        (Bar("speedup", at_least=3),),
    ),
    Case(
        "decode-read",
        "decoding",
        f"{SIZES}, beside reading K and V once",
        partial(decode_duel, "read"),
        (Bar("ratio", 2.5),),
    ),
)
