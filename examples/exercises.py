# %% [markdown]
# # Attention in four exercises
#
# A course builds transformer attention from nothing in four exercises. Here each is a few lines on top of regard, under
# the course's own names. The file is a script, `python examples/exercises.py`, and a notebook: VS Code, Spyder and
# Jupyter (with jupytext) open it as cells.
#
# The letters: B or N batch, L length, d_model the width of an embedding, d_k and d_v those of keys and values.

# %%
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import PositionalEncoding


def output_folder() -> Path:
    parser = argparse.ArgumentParser(description="The four exercises: their numbers, and the heatmap of the first.")
    parser.add_argument("--out", type=Path, default="regard-look", help="folder for the heatmap (default: %(default)s)")
    # In a notebook the arguments are the kernel's.
    return parser.parse_args([] if "ipykernel" in sys.modules else None).out


def printed(numbers: Tensor) -> str:
    return ", ".join(f"{number:.4f}" for number in numbers.tolist())


# %% [markdown]
# ## 1. Positional encoding
#
# $PE(pos, 2i) = \sin(pos / 10000^{2i/d_{model}})$ and $PE(pos, 2i+1) = \cos(pos / 10000^{2i/d_{model}})$.
#
# `PositionalEncoding(d_model, max_len).get_encoding()` is regard's own: (max_len, d_model).


# %%
def add_positional_encoding(word_embeddings: Tensor, positional_encodings: Tensor) -> Tensor:
    """(B, L, d_model) + (L, d_model): every sequence of the batch gets the same encoding."""
    return word_embeddings + positional_encodings


def exercise_1(folder: Path) -> object:
    batch, length, d_model = 3, 10, 128
    word_embeddings = (0.1 * torch.arange(1, d_model + 1)).expand(batch, length, d_model)
    encoded = add_positional_encoding(word_embeddings, PositionalEncoding(d_model, length).get_encoding())
    print("1. Positional encoding: encoded[b, :, 3] for each sequence b")
    for sequence in encoded:
        print("  ", printed(sequence[:, 3]))
    figure = PositionalEncoding(d_model=32, max_len=64).plot()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "positional_encoding.png"
    figure.savefig(path, dpi=150)
    print("   heatmap of 64 positions, d_model 32:", path)
    return figure


heatmap = exercise_1(output_folder()) if __name__ == "__main__" else None
heatmap  # noqa: B018 (a notebook shows the last line of a cell)

# %% [markdown]
# ## 2. Attention score and mask
#
# $A(Q, K, V) = \mathrm{softmax}(Q K^T / \sqrt{d_k})\, V$ with Q, K (N, L, d_k) and V (N, L, d_v). A mask is boolean,
# True = may attend, and acts before the softmax.


# %%
def att_score(Q: Tensor, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """The output (N, L, d_v) and the weights (N, L, L)."""
    output, weights = regard.attention(Q, K, V)
    return output, weights.to_dense()


def create_mask(seq_len: int) -> Tensor:
    """Lower-triangular (seq_len, seq_len): a position may attend to itself and to what came before."""
    return regard.masks.causal().to_dense(seq_len)


def attention_score(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> Tensor:
    """The output (N, L, d_v), each position reading only what the mask allows."""
    output, _ = regard.attention(Q, K, V, mask)
    return output


def exercise_2() -> None:
    torch.manual_seed(0)
    Q, K, V = torch.rand(20, 5, 512), torch.rand(20, 5, 512), torch.rand(20, 5, 64)
    output, weights = att_score(Q, K, V)
    print("2. Attention score: output", tuple(output.shape), "weights", tuple(weights.shape))
    off = (output - F.scaled_dot_product_attention(Q, K, V)).abs().max()
    print(f"   largest difference to F.scaled_dot_product_attention: {off:.1e}")
    mask = create_mask(5)
    print("   create_mask(5):", *("".join("■" if allowed else "·" for allowed in row) for row in mask.tolist()))
    off = (attention_score(Q, K, V, mask) - F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)).abs().max()
    print(f"   largest difference with the mask: {off:.1e}")


if __name__ == "__main__":
    exercise_2()

# %% [markdown]
# ## 3. Self-attention
#
# Q, K and V are three linear layers of one input: $Q = X W_q^T$, $K = X W_k^T$, $V = X W_v^T$, plus their biases.


# %%
class SelfAttention(regard.SelfAttention):
    """The course passes the mask by position; regard by name."""

    def forward(self, X: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(X, mask=mask)


def exercise_3() -> None:
    torch.manual_seed(40)
    X = torch.ones(20, 5, 32)
    layer = SelfAttention(d_in=32, d_k=512, d_v=64)
    output = layer(X)
    print("3. Self-attention: output", tuple(output.shape), "and output[-1, 1, :15]")
    print("  ", printed(output[-1, 1, :15]))
    # With an input of ones, as in the course, every order is the same and the test below could not fail.
    X, order = torch.rand(20, 5, 32), torch.tensor([3, 0, 4, 1, 2])
    off = (layer(X[:, order]) - layer(X)[:, order]).abs().max()
    moved = (layer(X[:, order]) - layer(X)).abs().max()
    print(f"   positions permuted: the output is permuted alike, to {off:.1e} (and it did move, by {moved:.1e})")


if __name__ == "__main__":
    exercise_3()

# %% [markdown]
# ## 4. Multi-head self-attention
#
# $\mathrm{MultiHead}(X) = \mathrm{Concat}(head_1, \ldots, head_h)\, W^O$, each head a self-attention with d_k/h, d_k/h
# and d_v/h. The course's numbers come from its seed only if $W^O$ is created first and then the heads one
# by one. regard's own layer holds one fused projection: it loads the heads.


# %%
class MultiHeadSelfAttention(nn.Module):
    def __init__(self, d_in: int, d_k: int, d_v: int, num_heads: int) -> None:
        super().__init__()
        if d_k % num_heads or d_v % num_heads:
            raise ValueError(f"d_k={d_k} and d_v={d_v} must be multiples of num_heads={num_heads}")
        W_O = nn.Linear(d_v, d_v)
        heads = [regard.SelfAttention(d_in, d_k // num_heads, d_v // num_heads) for _ in range(num_heads)]
        self.attention = regard.MultiHeadAttention.from_heads(heads, W_O)

    def forward(self, X: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.attention(X, mask=mask)


def exercise_4() -> None:
    torch.manual_seed(40)
    X = torch.rand(32, 10, 256)
    output = MultiHeadSelfAttention(d_in=256, d_k=512, d_v=64, num_heads=8)(X)
    print("4. Multi-head self-attention: output", tuple(output.shape), "and output[-1, 1, :15]")
    print("  ", printed(output[-1, 1, :15]))


if __name__ == "__main__":
    exercise_4()
