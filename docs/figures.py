"""Draw the README's picture and the gallery of the figures again: `make figures`.

The first is what `regard look` writes for its default text: all heads of the layer with the strongest induction head.
The second shows each figure of `regard.look.figures` once, from the same model.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from regard.look import canvas, command, figures, models, sources

HERE = Path(__file__).parent

#: The head that the gallery looks at, what it is compared with, and the query whose row it shows.
LAYER, HEAD, OTHER, QUERY = 1, 5, 3, 250
TOKENS = 300


def main(out: Path = HERE / "look.png", gallery: Path = HERE / "figures.png") -> None:
    with tempfile.TemporaryDirectory() as folder:
        looked = command.run(out=folder)
        (layer,) = (figure for figure in looked.figures if figure.name == "layer.png")
        shutil.copyfile(layer, out)
    print(f"The picture is {out}")
    draw_gallery(gallery)
    print(f"The gallery is {gallery}")


def draw_gallery(out: Path) -> None:
    model = models.load("demo")
    read = model.encode(sources.read_source(None, None).text, TOKENS)
    weights = model.attend(read.ids, lambda *_: None).weights
    shown = weights[LAYER]
    one = {"which": HEAD, "tokens": read.tokens}
    figure = canvas.new_figure(11.0, 12.6)
    rows = figure.subfigures(4, 1, height_ratios=[3.4, 3.6, 2.7, 2.9])
    parts = [
        part for row, ratios in zip(rows, RATIOS, strict=True) for part in row.subfigures(1, 2, width_ratios=ratios)
    ]
    axes = [part.subplots() for part in parts[:7]]
    figures.overview(weights, ax=axes[0], title="overview(layers)")
    figures.overview(weights, by="induction", tokens=read.tokens, ax=axes[1], title='overview(layers, by="induction")')
    figures.head(shown, margins=True, size=150, ax=axes[2], title="head(w, margins=True)", **one)
    heads = {"which": (HEAD, OTHER), "names": (f"head {HEAD}", f"head {OTHER}")}
    figures.compare(shown, shown, size=150, ax=axes[3], title="compare(a, b)", **heads)
    near, before = slice(QUERY - 14, QUERY + 1), slice(QUERY - 24, QUERY + 1)
    figures.window(shown, near, before, ax=axes[4], title="window(w, queries, keys)", **one)
    figures.row(shown, QUERY, k=9, ax=axes[5], title="row(w, query)", **one)
    figures.profiles(shown, ax=parts[7].subplots(2), title="profiles(w)")
    # The last one: its words are set for axes that no longer move.
    figures.text(shown, QUERY, keys=slice(82, QUERY + 12), ax=axes[6], title="text(w, query)", **one)
    figures.save(figure, out, dpi=120)
    # A palette takes a third of the bytes; the colours are moved to where they are used, and not mixed from dots.
    palette = {"method": Image.Quantize.MEDIANCUT, "kmeans": 4, "dither": Image.Dither.NONE}
    Image.open(out).convert("RGB").quantize(256, **palette).save(out, optimize=True)


#: The widths of the two figures of each row of the gallery.
RATIOS = ([1.0, 0.9], [1.0, 0.95], [1.2, 0.8], [1.0, 1.0])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
