"""Causal attention beside that of other libraries, as they ship it, at inference."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.bench import exact
from regard.bench.case import Case, Duel, Missing
from regard.bench.compare import ULPS, close_to
from regard.bench.layers import layer_duel
from regard.bench.timing import Subject

__all__ = ["CASES", "PEERS", "peer_duel"]

QUERY_LEN = 2048
#: Computes causal attention over tensors (1, H, L, D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def peer_duel(name: str, query_len: int = QUERY_LEN, *, num_heads: int = 8, width: int = 64) -> Duel:
    """Causal attention over (1, num_heads, query_len, width) in float32, without gradients.

    Args:
        name: a key of :data:`PEERS`.
        query_len: L, and S.
        num_heads: H.
        width: D.

    Raises:
        Missing: the peer is not installed, or does not work here.
    """
    peer = PEERS[name][1](query_len)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, num_heads, query_len, width, generator=generator).unbind()

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return regard.attention(q, k, v, regard.masks.causal())[0]

    @torch.no_grad()
    def run(attend: Attend, _: object = None) -> Tensor:
        return attend(q, k, v)

    def check() -> str:
        results = {"regard.attention": run(ours), PEERS[name][0]: run(peer)}
        worst = 0.0
        for block in exact.blocks(q[0], k[0], v[0], lambda q, kv: kv <= q):
            for which, out in results.items():
                what = f"output of {which}, rows from {block.rows.start}"
                worst = max(worst, close_to(what, out[0, :, block.rows], block.output, ulps=ULPS))
        return f"every row of each head against float64: within {worst:.1e}"

    return Duel(Subject("regard.attention", partial(run, ours)), Subject(PEERS[name][0], partial(run, peer)), check)


def _is_causal(_: int) -> Attend:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _dense(query_len: int) -> Attend:
    mask = torch.ones(query_len, query_len, dtype=torch.bool).tril()  # (L, L), True = may attend
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask)


def _flex(query_len: int) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise Missing("FlexAttention is compiled with g++, which is not there")
    block_mask = create_block_mask(lambda b, h, q, kv: kv <= q, None, None, query_len, query_len, device="cpu")
    with _quiet():
        compiled = torch.compile(flex_attention)
    first = True

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal first
        if not first:
            return compiled(q, k, v, block_mask=block_mask)
        try:
            with _quiet():
                out = compiled(q, k, v, block_mask=block_mask)
        except Exception as error:  # the compiler's own, of which there are many
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise Missing(f"FlexAttention does not compile here: {reason}") from error
        first = False
        return out

    return attend


@contextmanager
def _quiet() -> Iterator[None]:
    """The compiler of torch and x-transformers use torch.jit.script, which is deprecated; nobody here can help it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _x_transformers(_: int) -> Attend:
    with _quiet():
        module = _module("x_transformers.attend")
    attend = module.Attend(causal=True, flash=True).eval()
    return lambda q, k, v: attend(q, k, v)[0]


# What a Hugging Face attention function reads of the layer that calls it.
LAYER = SimpleNamespace(num_key_value_groups=1, is_causal=True, training=False)


def _hugging_face_eager(query_len: int) -> Attend:
    module = _module("transformers.models.llama.modeling_llama")
    mask = torch.full((query_len, query_len), -torch.inf).triu(1)  # (L, L), added to the scores

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = module.eager_attention_forward(LAYER, q, k, v, mask, scaling=q.shape[-1] ** -0.5)[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]  # (B, L, H, D) -> (B, H, L, D)

    return attend


def _hugging_face_sdpa(_: int) -> Attend:
    module = _module("transformers.integrations.sdpa_attention")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = module.sdpa_attention_forward(LAYER, q, k, v, None)[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]  # (B, L, H, D) -> (B, H, L, D)

    return attend


def _module(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise Missing(
            f"{package} is not installed, or not in a version that has {name}: pip install 'regard[peers]'"
        ) from error


#: What it is called, and what makes its function for a length.
PEERS: dict[str, tuple[str, Callable[[int], Attend]]] = {
    "peer-sdpa": ("F.scaled_dot_product_attention, is_causal", _is_causal),
    "peer-sdpa-mask": ("F.scaled_dot_product_attention, dense mask", _dense),
    "peer-flex": ("FlexAttention, compiled", _flex),
    "peer-x-transformers": ("x-transformers Attend, flash", _x_transformers),
    "peer-hf-eager": ("Hugging Face, eager", _hugging_face_eager),
    "peer-hf-sdpa": ("Hugging Face, sdpa", _hugging_face_sdpa),
}

CASES = (
    *(
        Case(name, "peers", f"causal, L {QUERY_LEN}, inference, beside {words}", partial(peer_duel, name))
        for name, (words, _) in PEERS.items()
    ),
    Case(
        "peer-layer",
        "peers",
        f"MultiHeadAttention (1, {QUERY_LEN}, 512), 8 heads, causal, inference, beside nn.MultiheadAttention",
        lambda: layer_duel("output", 1, QUERY_LEN, causal=True),
    ),
)
