"""Tiny Hugging Face models in folders, made on the spot, with tokenizers trained on a few lines."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

TEXT = "def heap(x):\n    # the cat sat on the mat: the cat sat\n    return heap(x) + heap(the_cat) naïve 🙂\n"

SIZES = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 48}

#: The kinds: the class with a head, its configuration, what it must be told, and the spelling of its tokens.
KINDS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED, "bytes"),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 8}, "bytes"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", GROUPED | {"head_dim": 4}, "bytes"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 400, "n_embd": 16, "n_layer": 2, "n_head": 4}, "bytes"),
    "bert": ("BertForMaskedLM", "BertConfig", SIZES | {"max_position_embeddings": 32}, "words"),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", SIZES | {"max_position_embeddings": 34}, "bytes"),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", SIZES | {"embedding_size": 8}, "pieces"),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 400, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 4},
        "pieces",
    ),
    "deberta": ("DebertaV2Model", "DebertaV2Config", SIZES, "words"),
    "vit": (
        "ViTModel",
        "ViTConfig",
        {key: value for key, value in SIZES.items() if key != "vocab_size"} | {"image_size": 8, "patch_size": 4},
        "words",
    ),
}


@lru_cache
def tokenizer(spelling: str) -> Any:
    """A tokenizer: "bytes" as GPT-2's, "words" as BERT's, "pieces" as T5's."""
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    made = {"bytes": _bytes, "words": _words, "pieces": _pieces}[spelling]
    backend, trainer, around = made(t)
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    options = {"special_tokens": specials, "show_progress": False, "vocab_size": 340}
    backend.train_from_iterator([TEXT], trainer(**options))
    numbers = [(token, specials.index(token)) for token in ("<s>", "</s>") if token in around]
    backend.post_processor = t.processors.TemplateProcessing(single=around, special_tokens=numbers)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def _bytes(t: Any) -> tuple[Any, Any, str]:
    backend = t.Tokenizer(t.models.BPE())
    backend.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = t.decoders.ByteLevel()
    alphabet = sorted(t.pre_tokenizers.ByteLevel.alphabet())
    return backend, lambda **options: t.trainers.BpeTrainer(initial_alphabet=alphabet, **options), "<s> $A"


def _words(t: Any) -> tuple[Any, Any, str]:
    backend = t.Tokenizer(t.models.WordPiece(unk_token="<unk>"))
    backend.normalizer = t.normalizers.BertNormalizer()
    backend.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
    backend.decoder = t.decoders.WordPiece()
    return backend, t.trainers.WordPieceTrainer, "<s> $A </s>"


def _pieces(t: Any) -> tuple[Any, Any, str]:
    backend = t.Tokenizer(t.models.Unigram())
    backend.pre_tokenizer = t.pre_tokenizers.Metaspace()
    backend.decoder = t.decoders.Metaspace()
    return backend, lambda **options: t.trainers.UnigramTrainer(unk_token="<unk>", **options), "$A </s>"


def save(kind: str, folder: Path, **changes: Any) -> Path:
    """A model of that kind with its tokenizer, in a new folder."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model_name, config_name, settings, spelling = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**settings | changes))
    for parameter in model.parameters():  # weights that differ enough to be told apart
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer(spelling).save_pretrained(folder)
    return folder
