"""Greedy text of a whole decoder beside ``model.generate`` of Hugging Face, with the same weights."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regard.bench.case import Bar, Case, Disagreement, Duel
from regard.bench.peers import _module, _quiet
from regard.bench.timing import Subject
from regard.models import Decoder, generate

__all__ = ["CASES", "generate_duel"]

#: What a Llama's configuration calls its sizes, and those of 25 and of 98 million parameters in 12 layers.
NAMES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
SIZES = {"25m": (384, 1280, 6, 2, 8192), "100m": (768, 2432, 12, 4, 16384)}


def generate_duel(sizes: tuple[int, ...], num_layers: int = 12, prompt_len: int = 16, new_tokens: int = 64) -> Duel:
    """Greedy decoding of one text in float32, with a prompt of random tokens.

    Args:
        sizes: of the Llama: those of :data:`NAMES`.
        num_layers: its layers.
        prompt_len: tokens that are there already.
        new_tokens: tokens to add.

    Raises:
        Missing: transformers is not installed.
    """
    theirs = _llama(sizes, num_layers)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        theirs.save_pretrained(folder)
        ours = Decoder.from_huggingface(folder)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(sizes[-1], (1, prompt_len), generator=generator)
    everything = torch.ones_like(tokens)

    def run_ours(_: object) -> Tensor:
        return generate(ours, tokens, new_tokens)

    def run_theirs(_: object) -> Tensor:
        with _quiet():
            text: Tensor = theirs.generate(
                tokens, attention_mask=everything, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
            )
        return text[:, prompt_len:]

    def check() -> str:
        got, wanted = run_ours(None), run_theirs(None)
        if not torch.equal(got, wanted):
            at = int((got != wanted).any(0).int().argmax()) if got.shape == wanted.shape else -1
            raise Disagreement(f"the texts differ from new token {at}: {got.tolist()} and {wanted.tolist()}")
        return f"all {new_tokens} tokens are the same, {len(set(got[0].tolist()))} of them different ones"

    return Duel(Subject("regard.models.generate", run_ours), Subject("Hugging Face, model.generate", run_theirs), check)


def _llama(sizes: tuple[int, ...], num_layers: int) -> Any:
    """A Llama with random weights, large enough that no two scores are nearly the same."""
    llama = _module("transformers.models.llama")
    options: dict[str, Any] = dict(zip(NAMES, sizes, strict=True))
    options |= {"eos_token_id": None, "bos_token_id": None, "tie_word_embeddings": True}
    config = llama.LlamaConfig(**options, num_hidden_layers=num_layers, initializer_range=0.06)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        return llama.LlamaForCausalLM(config).eval()


CASES = (
    Case(
        "generate-25m",
        "models",
        "64 greedy tokens of a Llama of 25 million parameters, beside Hugging Face",
        partial(generate_duel, SIZES["25m"]),
        (Bar("speedup", at_least=2),),
    ),
    Case(
        "generate-100m",
        "models",
        "32 greedy tokens of a Llama of 98 million parameters, beside Hugging Face",
        partial(generate_duel, SIZES["100m"], new_tokens=32),
        (Bar("speedup", at_least=1.3),),
    ),
)
