"""Text from a language model, token by token: the one that comes with regard, or a folder of Hugging Face's.

python examples/generate.py "def main("                             # the demo model
python examples/generate.py "Once upon a time" --model FOLDER       # Llama, Mistral, Qwen2 or Qwen3
python examples/generate.py "def main(" --temperature 0.8 --top-p 0.95 --seed 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from regard import demo
from regard.models import Decoder, stream

Words = Callable[[list[int]], str]


def model_of(folder: str | None) -> tuple[Decoder, Callable[[str], list[int]], Words]:
    """A decoder, what makes tokens of a text, and what makes a text of tokens."""
    if folder is None:
        model, own = demo.load()
        return model, own.encode, own.decode
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return Decoder.from_huggingface(folder), lambda text: list(tokenizer.encode(text).ids), tokenizer.decode


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", metavar="FOLDER", help="config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--tokens", type=int, default=100, help="how many to add")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the best token of each step")
    parser.add_argument("--top-p", type=float, help="draw from the best that together are this likely")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)

    model, encode, decode = model_of(given.model)
    prompt = encode(given.prompt)
    generator = torch.Generator().manual_seed(given.seed)
    options = {"temperature": given.temperature, "top_p": given.top_p, "generator": generator}
    written, shown = list(prompt), decode(prompt)
    sys.stdout.write(shown)
    for token in stream(model, torch.tensor([prompt]), given.tokens, **options):
        written.append(int(token))
        text = decode(written)  # of all tokens: a letter may take several
        sys.stdout.write(text[len(shown) :])
        sys.stdout.flush()
        shown = text
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
