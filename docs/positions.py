"""Draw the pictures of docs/positions.md again: `python docs/positions.py`; each module draws itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

from regard import positions
from regard.look import canvas, figures

HERE = Path(__file__).parent / "positions"

SCALINGS = {
    "LinearScaling(4)": positions.LinearScaling(4.0),
    "Llama3Scaling(8, 1, 4, 8192)": positions.Llama3Scaling(8.0, 1.0, 4.0, 8192),
    "YaRN(4, 4096)": positions.YaRN(4.0, 4096),
}


def main(folder: Path = HERE) -> None:
    folder.mkdir(exist_ok=True)
    save(rotary(), folder / "rotary.png")
    save(biases(), folder / "biases.png")
    save(others(), folder / "others.png")
    print(f"The pictures are in {folder}")


def rotary() -> canvas.Figure:
    figure = canvas.new_figure(10.5, 3.4)
    for axes, (name, scaling) in zip(figure.subplots(1, 3), SCALINGS.items(), strict=True):
        positions.Rotary(64, scaling=scaling).plot(axes)
        axes.set_title(name, fontsize=9)
    return figure


def biases() -> canvas.Figure:
    figure = canvas.new_figure(10.5, 3.4)
    left, right = figure.subplots(1, 2)
    positions.ALiBi(4).plot(left)
    left.set_title("ALiBi(4)", fontsize=9)
    relative = positions.RelativeBias(3)
    # What training gives such a bias is of this kind: smooth, and another for each head.
    bucket = torch.arange(32)
    rank, side = bucket % 16, torch.where(bucket < 16, 1.0, -1.0)
    relative.weight.data = torch.stack([-0.3 * rank, 3 - 0.1 * (rank - 8) ** 2, 0.2 * rank * side], dim=-1)
    relative.plot(right)
    right.set_title("RelativeBias(3), weights made up", fontsize=9)
    return figure


def others() -> canvas.Figure:
    figure = canvas.new_figure(10.5, 3.6)
    left, right = figure.subplots(1, 2)
    positions.Rotary2d(64, grid=(16, 24), base=100.0).plot(left)
    left.set_title("Rotary2d(64, grid=(16, 24), base=100)", fontsize=9)
    positions.PositionalEncoding(64, 96).plot(right)
    right.set_title("PositionalEncoding(64, 96)", fontsize=9)
    return figure


def save(figure: canvas.Figure, out: Path) -> None:
    figures.save(figure, out, dpi=100)
    # A palette takes a third of the bytes; colours are moved to where they are used, and not mixed from dots.
    palette = {"method": Image.Quantize.MEDIANCUT, "kmeans": 4, "dither": Image.Dither.NONE}
    Image.open(out).convert("RGB").quantize(128, **palette).save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
