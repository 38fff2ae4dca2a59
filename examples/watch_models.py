# %% [markdown]
# # Watching models that know nothing of regard
#
# Two models, neither of which is changed: a vision transformer of Hugging Face's, and PyTorch's own
# `nn.TransformerEncoder`. The file is a script, `python examples/watch_models.py`, and a notebook: VS Code, Spyder and
# Jupyter (with jupytext) open it as cells.
#
# The letters: B batch, H heads, L queries, S keys. Needs `pip install 'regard[hf,plot]'`.

# %%
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import regard

PATCH, SIDE = 4, 8  # pixels of a patch, patches of an image


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Watch a vision transformer and nn.TransformerEncoder.")
    parser.add_argument("--out", type=Path, default="regard-look", help="folder for the figure (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of the transformer (default: 300)")
    # In a notebook the arguments are the kernel's.
    return parser.parse_args([] if "ipykernel" in sys.modules else None)


# %% [markdown]
# ## A vision transformer
#
# It learns to tell a hollow square from one without two of its sides, somewhere in an image of noise. Where its class
# token looks is then where the shape is: token 0 is the class token, token 1 + n is patch n.


# %%
def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (B, 1, 32, 32) with a shape on one patch, which shape it is (B,), and on which patch (B,)."""
    shapes = torch.ones(2, PATCH, PATCH)
    shapes[0, 1:3, 1:3] = -1  # a square that is hollow
    shapes[1, 0, :] = shapes[1, :, 0] = -1  # two sides are missing
    kind = torch.randint(0, 2, (count,), generator=generator)
    place = torch.randint(0, SIDE * SIDE, (count,), generator=generator)
    picture = 0.3 * torch.randn(count, 1, SIDE * PATCH, SIDE * PATCH, generator=generator)
    for n in range(count):
        y, x = PATCH * (int(place[n]) // SIDE), PATCH * (int(place[n]) % SIDE)
        picture[n, 0, y : y + PATCH, x : x + PATCH] += 2 * shapes[kind[n]]
    return picture, kind, place


def vision_transformer(steps: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIDE * PATCH,
        patch_size=PATCH,
        num_channels=1,
        num_labels=2,
    )
    model = ViTForImageClassification(config)
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        picture, kind, _ = images(64, generator)
        model(picture, labels=kind).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def see_vision(folder: Path, steps: int) -> float:
    """How much of the class token's attention is on the shape, in the head that looks there most."""
    model = vision_transformer(steps)
    picture, kind, place = images(200, torch.Generator().manual_seed(1))
    with torch.no_grad(), regard.watch(model) as seen:
        correct = (model(picture).logits.argmax(-1) == kind).float().mean()
    print(seen)
    of_class = torch.stack([weights[:, :, 0, 1:] for weights in seen.weights], dim=1)  # (B, layers, H, patches)
    on_shape = of_class[range(200), :, :, place].mean(0)  # (layers, H)
    layer, head = divmod(int(on_shape.argmax()), on_shape.shape[1])
    best = float(on_shape[layer, head])
    print(f"right on {correct:.0%} of 200 images; with 64 patches, an even look would put 1.6% on the shape:")
    print(f"the class token of layer {layer}, head {head} puts {best:.0%} of its weight there")
    draw(folder, picture[:4, 0], of_class[:4, layer, head])
    return best


def draw(folder: Path, pictures: Tensor, weights: Tensor) -> None:
    """Images (n, 32, 32) above the weights (n, patches) that the class token gives to their patches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots(2, len(pictures))
    for n, (picture, row) in enumerate(zip(pictures, weights, strict=True)):
        axes[0, n].imshow(picture.numpy(), cmap="gray")
        shown = axes[1, n].imshow(row.view(SIDE, SIDE).numpy(), cmap="viridis", vmin=0, vmax=float(weights.max()))
    for each in axes.flat:
        each.set_xticks([])
        each.set_yticks([])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("class token's weights")
    figure.colorbar(shown, ax=axes[1], label="weight of a patch")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "vision.png", dpi=150)
    print(f"drawn: {folder / 'vision.png'}")


# %% [markdown]
# ## PyTorch's own encoder
#
# With padding. `seen` has one record a layer, by the names of the modules.


# %%
def see_encoder() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(d_model=64, nhead=4, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=3).eval()
    x, lengths = torch.randn(2, 100, 64), torch.tensor([100, 60])
    padding = torch.arange(100) >= lengths[:, None]  # (B, S), True = padding, torch's convention here
    with torch.no_grad(), regard.watch(encoder) as seen:
        encoder(x, src_key_padding_mask=padding)
    print(seen)
    weights = seen["layers.2.self_attn"].weights
    print("mean entropy of each head, in nats:", weights.entropy()[0].mean(-1))
    print("weight on padding:", float(weights.received()[1, :, 60:].sum()))


# %%
if __name__ == "__main__":
    given = options()
    see_vision(given.out, given.steps)
    see_encoder()
