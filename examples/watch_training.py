# %% [markdown]
# # Watching attention while a model is trained
#
# A small decoder learns the source text of Python's standard library, byte by byte, on a CPU. Every tenth step the
# entropy, the largest logit and the weight on the first token of each attention layer are logged: a CSV file to read
# with pandas, and a picture. The model calls torch's own attention and knows nothing of regard.
#
# The file is a script, `python examples/watch_training.py`, and a notebook: VS Code, Spyder and Jupyter (with jupytext)
# open it as cells. Letters: B batch, L length, H heads, D width of a head.

# %%
from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small decoder and log its attention.")
    parser.add_argument("--steps", type=count, default=200, help="updates of the weights (default: %(default)s)")
    parser.add_argument("--every", type=count, default=10, help="steps between logged ones (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("regard-look"), help="folder (default: %(default)s)")
    # In a notebook the arguments are the kernel's.
    return parser.parse_args([] if given is None and "ipykernel" in sys.modules else given)


# %% [markdown]
# ## The model
#
# Byte embeddings, learned positions, four blocks of attention and a feed-forward layer, before each a LayerNorm.


# %%
class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, D) each
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(read.transpose(1, 2).flatten(-2))  # (B, L, H * D)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.feed_forward(self.norms[1](x))


class Decoder(nn.Module):
    def __init__(self, width: int = 96, heads: int = 4, layers: int = 4, context: int = 96) -> None:
        super().__init__()
        self.context = context
        self.bytes = nn.Embedding(256, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256))

    def forward(self, text: Tensor) -> Tensor:
        """(B, L + 1) bytes to the mean cross-entropy of each byte given those before it, in nats."""
        x = self.bytes(text[:, :-1]) + self.positions[: text.shape[1] - 1]  # (B, L, width)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), text[:, 1:].flatten())


# %% [markdown]
# ## The text


# %%
def standard_library(limit: int = 2_000_000) -> Tensor:
    """The first bytes of the .py files at the top of the standard library, in order of name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))[:limit]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batch(text: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Windows (B, L + 1) from anywhere."""
    starts = torch.randint(len(text) - length, (count, 1), generator=generator)
    return text[starts + torch.arange(length + 1)]


# %% [markdown]
# ## The training
#
# `with log:` is all that is added to the loop: what runs inside is one step. The steps between cost nothing.


# %%
def train(steps: int, every: int, out: Path) -> regard.watch.Log:
    torch.manual_seed(0)
    model, text, generator = Decoder(), standard_library(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    path = out / "attention.csv"
    path.unlink(missing_ok=True)  # a log continues a training, and refuses to mix two
    log = regard.watch.Log(model, every=every, to=path, logit_above=100.0)
    began = time.perf_counter()
    for step in range(steps):
        with log:
            loss = model(batch(text, 16, model.context, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4d}: {loss.item():.3f} nats a byte, {time.perf_counter() - began:.1f} s")
    return log


def main(given: list[str] | None = None) -> regard.watch.Log:
    asked = arguments(given)
    log = train(asked.steps, asked.every, asked.out)
    print(log.history[-1])
    picture = asked.out / "attention.png"
    log.plot().savefig(picture, dpi=120)
    print("figures:", asked.out / "attention.csv", "picture:", picture)
    return log


log = main() if __name__ == "__main__" else None
log  # noqa: B018 (a notebook shows the last line of a cell)

# %% [markdown]
# ## What to look for
#
# The file has one row a step, layer and head. In pandas, the smallest entropy of each layer over the steps is
# `pandas.read_csv("attention.csv").groupby(["step", "layer"]).entropy.min().unstack()`.
#
# An entropy that falls towards 0 in a whole layer while the largest logit runs away is attention that collapses. A few
# heads with little entropy are no illness: a head that reads the previous token alone has none.
