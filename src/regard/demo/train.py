"""Train the demo model, or one on your own text.

    python -m regard.demo.train --out FOLDER                  # on Python's standard library, as the shipped model
    python -m regard.demo.train --text NOTES --out FOLDER     # on a text file, or on all text files of a folder

The model that ships with regard was trained by this script on the source text of the standard library and, for a
quarter of the sequences, on repeated random tokens; its settings, seed, loss curve and head scores are in
data/training.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from regard.demo.corpus import read_corpus, standard_library
from regard.demo.fit import Settings, fit
from regard.demo.model import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: as after the program's name; those of the process without it.

    Returns:
        The exit status: 0 when trained, 2 for an argument, text or folder that cannot be used, 130 when interrupted,
        where the last saved state stays usable.
    """
    given = _parser().parse_args(arguments)
    out = Path(given.out)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        settings = Settings(
            steps=given.steps,
            seed=given.seed,
            tokens_per_step=given.tokens_per_step,
            repeated_share=given.repeated_share,
            learning_rate=given.learning_rate,
            warmup=given.warmup,
            vocab_size=given.vocab_size,
            evaluate_every=given.evaluate_every,
            bfloat16=given.bfloat16,
        )
        config = Config(
            vocab_size=given.vocab_size,
            d_model=given.d_model,
            num_heads=given.heads,
            num_layers=given.layers,
            d_mlp=3 * given.d_model,
            context=given.context,
            max_len=2 * given.context,
        )
        _claim(out, overwrite=given.overwrite)
        corpus = standard_library() if given.text is None else read_corpus(given.text)
        fit(corpus, out, settings, config)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"the last saved state is in {out}" if (out / "model.safetensors").exists() else "nothing was saved yet"
        print(f"\ninterrupted; {kept}", file=sys.stderr)
        return 130
    return 0


def _claim(out: Path, *, overwrite: bool) -> None:
    # Asked before the hours of training, not after them.
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder, which is made if missing")
    if (out / "model.safetensors").exists() and not overwrite:
        raise ValueError(f"--out {out} already holds a model; add --overwrite to replace it, or name another folder")
    out.mkdir(parents=True, exist_ok=True)


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m regard.demo.train",
        description="Train a small decoder on text; regard.demo.load(FOLDER) reads the result.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--text", metavar="PATH", help="a text file or a folder of them; without it, Python's standard library")
    add("--out", metavar="FOLDER", required=True, help="where the model goes")
    add("--overwrite", action="store_true", help="replace a model that is in FOLDER already")
    add("--steps", type=int, default=default.steps, help="optimiser steps")
    add("--seed", type=int, default=default.seed, help="of weights, batches and held-out text")
    add("--tokens-per-step", type=int, default=default.tokens_per_step, help="tokens in a batch")
    add("--repeated-share", type=float, default=default.repeated_share, help="share of repeated random sequences")
    add("--learning-rate", type=float, default=default.learning_rate, help="its peak")
    add("--warmup", type=int, default=default.warmup, help="steps until the peak")
    add("--evaluate-every", type=int, default=default.evaluate_every, help="steps between measurements")
    add("--vocab-size", type=int, default=default.vocab_size, help="most tokens to learn, at least 256")
    add("--context", type=int, default=512, help="longest sequence in tokens")
    add("--d-model", type=int, default=192, help="width of the residual stream")
    add("--heads", type=int, default=6, help="attention heads in each layer")
    add("--layers", type=int, default=4, help="attention layers")
    add("--bfloat16", action="store_true", help="multiply in bfloat16; quicker on a processor made for it")
    add("--threads", type=int, default=0, help="processor threads; 0 leaves the choice to torch")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
