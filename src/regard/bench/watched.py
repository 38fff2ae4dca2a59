"""What it costs to watch a model, and to ask all of its weights, beside the model alone and Hugging Face's eager."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.bench.case import Bar, Case, Disagreement, Duel, Missing, Solo
from regard.bench.timing import Subject

__all__ = ["CASES", "Decoder", "long_run", "registered_duel", "statistics_duel", "watch_duel"]

LAYERS, HEADS, WIDTH = 6, 8, 512
QUERY_LEN, STATISTICS_LEN, LONG_LEN = 2048, 4096, 32768
CELLS, TOP = 512, 8
# Statistics of a float32 model against those of the same model in float64: rounding grows through six layers.
NEAR = 1e-4


class Decoder(nn.Module):
    """A decoder in plain PyTorch: attention by ``F.scaled_dot_product_attention`` and a feed-forward part."""

    def __init__(self, layers: int = LAYERS, width: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(Layer(width, num_heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """X (B, L, width) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """One layer of :class:`Decoder`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, L, width) to the same shape."""
        heads = self.qkv(self.first(x)).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3)  # (B, H, 3, L, D)
        q, k, v = heads.unbind(2)  # (B, H, L, D) each
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(read.transpose(1, 2).flatten(2))  # (B, H, L, D) -> (B, L, width)
        inner: Tensor = self.down(F.gelu(self.up(self.second(x))))
        return x + inner


def watch_duel(query_len: int = QUERY_LEN, **sizes: int) -> Duel:
    """A forward pass of a decoder under :func:`regard.watch`, beside the same without.

    Args:
        query_len: L.
        sizes: of :class:`Decoder`.
    """
    model, x = _decoder(query_len, **sizes)

    @torch.no_grad()
    def watched(_: object) -> Any:
        with regard.watch(model) as seen:
            model(x)
        return seen

    @torch.no_grad()
    def alone(_: object) -> Tensor:
        output: Tensor = model(x)
        return output

    @torch.no_grad()
    def check() -> str:
        with regard.watch(model) as seen:
            output = model(x)
        if not torch.equal(output, model(x)):
            raise Disagreement("the output of a watched model: it is not that of the model alone")
        if len(seen) != len(model.layers):
            raise Disagreement(f"the records: {len(seen)}; expected one a layer, {len(model.layers)}")
        return f"the output, bit for bit; {len(seen)} records"

    return Duel(Subject("model under regard.watch", watched), Subject("the model", alone), check)


def _decoder(query_len: int, **sizes: int) -> tuple[Decoder, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Decoder(**sizes).eval()
    x = torch.randn(1, query_len, model.width, generator=torch.Generator().manual_seed(0))
    return model, x


def statistics_duel(
    query_len: int = STATISTICS_LEN, *, layers: int = LAYERS, width: int = WIDTH, num_heads: int = HEADS
) -> Duel:
    """All statistics of every head of a Hugging Face decoder: watched, and by eager's ``output_attentions=True``.

    Entropy and weight received, a pooled map of 512 x 512 cells, and the eight largest weights of each row.

    Args:
        query_len: L.
        layers: of the model.
        width: of the model.
        num_heads: H.

    Raises:
        Missing: transformers is not installed.
    """
    cells = min(CELLS, query_len)
    questions = ("entropy", "received", ("pool", cells, cells), ("topk", TOP))
    ids = torch.randint(0, 100, (1, query_len), generator=torch.Generator().manual_seed(0))
    watched_model = _llama("sdpa", layers, width, num_heads, query_len)
    eager_model = _llama("eager", layers, width, num_heads, query_len)

    @torch.no_grad()
    def watched(model: Any, ids: Tensor, _: object = None) -> list[tuple[Any, ...]]:
        with regard.watch(model) as seen:
            model(ids)
        return [weights.ask(*questions) for weights in seen.weights]

    @torch.no_grad()
    def eager(model: Any, ids: Tensor, _: object = None) -> list[tuple[Any, ...]]:
        attentions = model(ids, output_attentions=True).attentions  # a layer each, (1, H, L, L)
        return [_dense(weights, min(cells, ids.shape[1])) for weights in attentions]

    def check() -> str:
        # Both at full length, and at a quarter of it, whose float64 matrices fit, against the model in float64.
        worst = _compare("of regard and of eager", watched(watched_model, ids), eager(eager_model, ids))
        some, double = (
            ids[:, : max(cells, query_len // 4)],
            _llama("eager", layers, width, num_heads, query_len).double(),
        )
        truth = eager(double, some)
        worst = max(worst, _compare("of regard and float64", watched(watched_model, some), truth))
        return f"entropy, received, pool and topk of every head against eager and against float64: within {worst:.1e}"

    return Duel(
        Subject("regard.watch and weights.ask", partial(watched, watched_model, ids)),
        Subject("eager, output_attentions=True, and dense statistics", partial(eager, eager_model, ids)),
        check,
    )


def _dense(weights: Tensor, cells: int) -> tuple[Any, ...]:
    """The statistics of dense weights (1, H, L, L)."""
    size = weights.shape[-1] // cells
    map_ = weights.unflatten(-1, (cells, size)).sum(-1).unflatten(-2, (cells, size)).mean(-2)  # (1, H, cells, cells)
    return torch.special.entr(weights).sum(-1), weights.sum(-2), map_, weights.topk(TOP)


def _compare(what: str, ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> float:
    if len(ours) != len(theirs):
        raise Disagreement(f"layers {what}: {len(ours)} and {len(theirs)}")
    worst = 0.0
    for layer, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for name, a, b in zip(("entropy", "received", "pool", "topk"), mine, other, strict=True):
            a, b = (a.values, b.values) if name == "topk" else (a, b)
            error = float((a.double() - b.double()).abs().max() / b.double().abs().max())
            if not error <= NEAR:
                raise Disagreement(
                    f"{name} {what}, layer {layer}: off by {error:.2g} of the largest; allowed is {NEAR}"
                )
            worst = max(worst, error)
    return worst


def registered_duel(query_len: int = QUERY_LEN, **sizes: int) -> Duel:
    """A forward pass of a Hugging Face decoder with ``attn_implementation="regard"``, beside its own ``"sdpa"``.

    Args:
        query_len: L.
        sizes: layers, width and num_heads.

    Raises:
        Missing: transformers is not installed.
    """
    given = (sizes.get("layers", LAYERS), sizes.get("width", WIDTH), sizes.get("num_heads", HEADS), query_len)
    ids = torch.randint(0, 100, (1, query_len), generator=torch.Generator().manual_seed(0))
    theirs = _llama("sdpa", *given, num_kv_heads=2)
    regard.hf.register()
    ours = _llama("regard", *given, num_kv_heads=2)

    @torch.no_grad()
    def run(model: Any, _: object = None) -> Tensor:
        return model(ids).last_hidden_state  # type: ignore[no-any-return]

    def check() -> str:
        error = float((run(ours) - run(theirs)).abs().max() / run(theirs).abs().max())
        if not error <= NEAR:
            raise Disagreement(f"the output: off by {error:.2g} of the largest; allowed is {NEAR}")
        return f"the output against sdpa's: within {error:.1e} of the largest"

    return Duel(
        Subject('attn_implementation="regard"', partial(run, ours)), Subject('"sdpa"', partial(run, theirs)), check
    )


def _llama(
    attention: str, layers: int, width: int, num_heads: int, query_len: int, num_kv_heads: int | None = None
) -> Any:
    """A Llama without a head, whose parameters depend on the sizes alone."""
    try:
        from transformers import LlamaConfig, LlamaModel
    except ImportError as error:
        raise Missing("transformers is not installed: pip install 'regard[hf]'") from error
    make: Any = LlamaConfig
    config = make(
        vocab_size=100,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads or num_heads,
        max_position_embeddings=query_len,
        attn_implementation=attention,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaModel(config)
        return model.eval()


def long_run(query_len: int = LONG_LEN, **sizes: int) -> Solo:
    """All statistics of every head of a decoder at a length whose weights nobody could store.

    Args:
        query_len: L.
        sizes: of :class:`Decoder`.
    """
    model, x = _decoder(query_len, **sizes)
    cells = min(CELLS, query_len)

    @torch.no_grad()
    def sample() -> float:
        start = time.perf_counter()
        with regard.watch(model) as seen:
            model(x)
        for weights in seen.weights:
            weights.ask("entropy", "received", ("pool", cells, cells), ("topk", TOP))
        return time.perf_counter() - start

    return Solo(f"watch and ask, L {query_len:,}", sample, once=True)


def _case(name: str, what: str, build: Callable[[], Duel | Solo], *bars: Bar) -> Case:
    return Case(name, "watch", what, build, bars, memory=any(bar.quantity in ("memory", "share") for bar in bars))


CASES = (
    _case(
        "watch-forward", f"forward of a {LAYERS}-layer decoder, L {QUERY_LEN}, watched", watch_duel, Bar("ratio", 1.02)
    ),
    _case(
        "watch-statistics",
        f"entropy, received, pool, topk of {LAYERS} x {HEADS} heads, L {STATISTICS_LEN}, beside eager",
        statistics_duel,
        Bar("speedup", at_least=4),
        Bar("share", 0.2),
    ),
    _case("watch-long", f"the same of a {LAYERS}-layer decoder at L {LONG_LEN}", long_run, Bar("memory", 4000)),
    _case(
        "registered", f'Hugging Face forward, L {QUERY_LEN}, "regard" beside "sdpa"', registered_duel, Bar("ratio", 1.0)
    ),
)
