"""Draw the README's picture again: `make figures`.

It is what `regard look` writes for its default text: all heads of the layer with the strongest induction head.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from regard.look import command

HERE = Path(__file__).parent


def main(out: Path = HERE / "look.png") -> None:
    with tempfile.TemporaryDirectory() as folder:
        looked = command.run(out=folder)
        (layer,) = (figure for figure in looked.figures if figure.name == "layer.png")
        shutil.copyfile(layer, out)
    print(f"The picture is {out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
