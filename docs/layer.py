"""Draw the pictures of docs/layer.md again: `python docs/layer.py`; their numbers come from layers and caches."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import regard
from regard import masks
from regard.look import canvas, figures
from regard.look.canvas import Figure
from regard.masks import Mask

HERE = Path(__file__).parent / "layer"

# Sizes of one layer of DeepSeek-V2 and V3: H heads of width D; latents of R numbers, rotary keys of P.
HEADS, WIDTH, RANK, ROTARY = 128, 128, 512, 64
WINDOW = 4096


def main(folder: Path = HERE) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save(windows(), folder / "windows.png")
    save(norms(), folder / "norms.png")
    save(softcap(), folder / "softcap.png")
    save(sinks(), folder / "sinks.png")
    save(kept(), folder / "kept.png")
    print(f"The pictures are in {folder}")


def windows() -> Figure:
    """The masks of a layer with a window and one without, and how many layers a key is away from a query."""
    length, width = 64, 8
    figure = canvas.new_figure(12.0, 3.2)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1.15, 1])
    for ax, mask in zip(axes, (masks.window(width), masks.causal()), strict=False):
        figures.mask(mask, length, length, ax=ax)
        ax.get_legend().remove()  # the page says what the colours mean
        ax.set_title(repr(mask), fontsize=9)
    needed = layers_needed([masks.window(width)] * 9, length)
    shown = needed.masked_fill(needed == 0, torch.nan)
    image = axes[2].imshow(shown.numpy(), cmap=canvas.colour_map(), vmin=0, vmax=9, interpolation="nearest")
    axes[2].set_title(f"layers of window({width}) from key to query", fontsize=9)
    axes[2].set(xlabel="key (read from)", ylabel="query (reading)")
    figure.colorbar(image, ax=axes[2], shrink=0.7, ticks=[1, 3, 5, 7, 9])
    stacks = {
        f"window({width}) in every layer": [masks.window(width)] * 9,
        "every fourth layer causal()": ([masks.window(width)] * 3 + [masks.causal()]) * 2 + [masks.window(width)],
    }
    for (name, stack), style in zip(stacks.items(), ("-", "--"), strict=True):
        axes[3].plot(range(1, 10), furthest(stack, length), style, marker="o", markersize=3, label=name)
    axes[3].axhline(length - 1, color="0.8", linestyle=":", label="the first token of the text")
    axes[3].set(xlabel="layers", ylabel="positions back", ylim=(0, length + 22))
    axes[3].set_title("how far back a token reaches", fontsize=9)
    axes[3].legend(frameon=False, fontsize=7, loc="upper left")
    return figure


def layers_needed(stack: list[Mask], length: int) -> Tensor:
    """How many of the layers it takes until a query has something of a key, (L, L); 0 where all do not suffice."""
    needed, reached = torch.zeros(length, length), torch.eye(length)
    for layer, mask in enumerate(stack, start=1):
        reached = (mask.to_dense(length).float() @ reached > 0).float()  # of a layer's outputs, what reaches them
        needed[(reached > 0) & (needed == 0)] = layer
    return needed


def furthest(stack: list[Mask], length: int) -> list[int]:
    """How many positions back the last token reaches after each layer."""
    last = layers_needed(stack, length)[-1]
    return [length - 1 - int(((last > 0) & (last <= n)).nonzero().min()) for n in range(1, len(stack) + 1)]


def norms() -> Figure:
    """Scores and entropies while the weights of queries and keys grow, with and without norms."""
    factors = [2.0**k for k in range(7)]
    figure = canvas.new_figure(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    for name, norm, style in (("without", None, "--"), ("QKNorm.rms(32)", regard.QKNorm.rms(32), "-")):
        largest, entropy = grown(norm, factors)
        left.plot(factors, largest, style, marker="o", markersize=3, label=name)
        right.plot(factors, entropy, style, marker="o", markersize=3, label=name)
    left.axhline(32**0.5, color="0.8", linestyle=":", label="sqrt(D), the bound")
    for ax, up in ((left, "largest score"), (right, "mean entropy of a row, nats")):
        ax.set(xlabel="weights of queries and keys, times their first ones", ylabel=up)
        ax.set_xscale("log", base=2)
        ax.legend(frameon=False, fontsize=8)
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    return figure


@torch.no_grad()
def grown(norm: regard.QKNorm | None, factors: list[float]) -> tuple[list[float], list[float]]:
    """The largest score and the mean entropy of a layer whose in_proj is multiplied by each of the factors."""
    torch.manual_seed(1)
    layer = regard.MultiHeadAttention(128, 4, norm=norm, bias=False)
    x, first = torch.randn(1, 64, 128), layer.in_proj.weight.clone()
    largest, entropy = [], []
    for factor in factors:
        layer.in_proj.weight.copy_(factor * first)
        _, weights = layer(x, need_weights=True)
        largest.append(float(weights.max_logit().max()))
        entropy.append(float(weights.entropy().mean()))
    return largest, entropy


def softcap() -> Figure:
    """A score before and after the cap, and the cap's slope."""
    figure = canvas.new_figure(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    score = torch.linspace(-120, 120, 241)
    for cap in (None, 50.0, 20.0):
        name, style = ("none", "--") if cap is None else (f"softcap={cap:g}", "-")
        left.plot(score.numpy(), capped(score, cap).numpy(), style, label=name)
        right.plot(score.numpy(), slopes(score, cap).numpy(), style, label=name)
    left.set(xlabel="score before", ylabel="score after", ylim=(-80, 80))
    right.set(xlabel="score before", ylabel="slope: what is left of its gradient", ylim=(0, 1.1))
    left.legend(frameon=False, fontsize=8)
    return figure


def capped(score: Tensor, cap: float | None) -> Tensor:
    """The scores (n,) after the cap of :func:`regard.attention`: the lse of queries that read one key each."""
    one = torch.ones(len(score), 1, 1, dtype=score.dtype)  # n texts of one token each
    return regard.attention(score[:, None, None], one, one, scale=1.0, softcap=cap)[1].lse[:, 0]


def slopes(score: Tensor, cap: float | None) -> Tensor:
    """The derivative of :func:`capped`."""
    given = score.double().requires_grad_()
    return torch.autograd.grad(capped(given, cap).sum(), given)[0]


def sinks() -> Figure:
    """One row of weights beside sinks of three sizes, and the share of a sink."""
    figure = canvas.new_figure(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    scores = torch.tensor([0.5, 2.0, -1.0, 0.0, 1.0, -0.5])
    for n, sink in enumerate((None, 0.0, 2.0, 4.0)):
        row = beside(scores, sink)
        name = "no sink" if sink is None else f"sink {sink:g}"
        at = torch.arange(len(row)) + 0.2 * (n - 1.5)
        left.bar(at.numpy(), row.numpy(), width=0.2, label=f"{name}: the row sums to {float(row.sum()):.2f}")
    left.set(xlabel="key", ylabel="weight")
    left.legend(frameon=False, fontsize=8, loc="upper right")
    left.set_ylim(0, 0.75)
    sink = torch.linspace(-6, 6, 121)
    taken = [1 - float(beside(scores, float(s)).sum()) for s in sink + scores.logsumexp(0)]
    right.plot(sink.numpy(), taken)
    right.axhline(0.5, color="0.8", linestyle=":")
    right.set(xlabel="sink less the row's lse without it", ylabel="what the sink takes of the row", ylim=(0, 1))
    return figure


def beside(scores: Tensor, sink: float | None) -> Tensor:
    """The weights (S,) of a query with these scores, where a sink joins the denominator."""
    key = scores[None, :, None]  # (S,) -> (H, S, D) = (1, S, 1)
    one = None if sink is None else torch.tensor([sink], dtype=scores.dtype)
    _, weights = regard.attention(torch.ones_like(key[:, :1]), key, key, scale=1.0, sinks=one)
    return weights.to_dense()[0, 0]


def kept() -> Figure:
    """Bytes that one layer keeps of a token, and of texts of all lengths, in bfloat16."""
    figure = canvas.new_figure(10.5, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    each = bytes_per_token()
    left.plot(list(each.values()), list(each), "o")
    for name, n in each.items():
        left.annotate(f"{n:,}", (n, name), xytext=(7, -3), textcoords="offset points", fontsize=8)
    left.set(xscale="log", xlim=(200, 300_000), ylim=(3.5, -0.5), xlabel="bytes a token and layer, bfloat16")
    left.grid(axis="y", color="0.9")
    length = torch.arange(0, 8 * WINDOW + 1, 256)
    grouped = each["8 key/value heads"]
    mib = 2**-20
    right.plot(length, length * grouped * mib, label="KVCache, 8 key/value heads")
    slots = torch.full_like(length, 2 * WINDOW)
    right.plot(length, slots * grouped * mib, "--", label=f"RollingCache, 8 heads, window {WINDOW}")
    right.plot(length, length * each["latent attention"] * mib, ":", linewidth=2, label="LatentCache")
    right.set(xlabel="tokens of the text", ylabel="MiB a sequence and layer", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    return figure


def bytes_per_token() -> dict[str, int]:
    """What caches of one token hold: keys and values as they give them, or the latent with its rotary key."""
    found = {}
    for name, heads in ((f"{HEADS} key/value heads", HEADS), ("8 key/value heads", 8), ("1 key/value head", 1)):
        cache = regard.KVCache(1, heads, 1, WIDTH, dtype=torch.bfloat16)
        new = torch.zeros(1, heads, 1, WIDTH, dtype=torch.bfloat16)
        key, value, _ = cache.append(new, new)
        found[name] = key.nbytes + value.nbytes
    latents = regard.LatentCache(1, 1, RANK, ROTARY, dtype=torch.bfloat16)
    options = {"dtype": torch.bfloat16}
    whole, _, _ = latents.append(torch.zeros(1, 1, RANK, **options), torch.zeros(1, 1, ROTARY, **options))
    return {**found, "latent attention": whole.nbytes}  # its values are columns of the same memory


def save(figure: Figure, out: Path) -> None:
    figures.save(figure, out, dpi=100)
    # A palette takes a third of the bytes; colours are moved to where they are used, and not mixed from dots.
    palette = {"method": Image.Quantize.MEDIANCUT, "kmeans": 4, "dither": Image.Dither.NONE}
    Image.open(out).convert("RGB").quantize(128, **palette).save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
