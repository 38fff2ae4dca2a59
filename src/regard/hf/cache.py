"""regard.hf.Cache: what transformers' models take for ``past_key_values``, on regard's caches."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers import cache_utils as theirs
from transformers.models.auto import modeling_auto

from regard.hf.cache_layers import AttentionLayer

__all__ = ["Cache"]

ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
# Layers without keys: what they keep does not grow, and transformers' own layers keep it.
OTHERS = ("linear_attention", "conv", "dummy")


class Cache(theirs.Cache):
    """A cache for ``model.generate(..., past_key_values=cache)`` or ``model(..., past_key_values=cache)``.

    It gives what transformers' DynamicCache gives, without concatenating keys and values at each token: they are
    written in place. Layers with a window keep a window.

    >>> import regard, torch, transformers
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     num_key_value_heads=2)
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> prompt = torch.arange(8)[None]
    >>> options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    >>> cache = regard.hf.Cache(model.config)
    >>> found = model.generate(prompt, past_key_values=cache, **options)
    >>> torch.equal(found, model.generate(prompt, **options))
    True
    >>> cache.get_seq_length()
    12

    Padded batches are those of transformers: padding on the left is kept like other tokens, and the model's
    attention_mask says what nobody reads. The tensors that an update gives are views, good until the next one: weights
    of an earlier token (``output_attentions`` with attn_implementation="regard") then refuse to answer.

    Without max_len a buffer has at least 64 slots, and grows to the next power of two: at most twice what is kept. No
    gradient passes through the cache.

    Args:
        config: ``model.config``; its layer types decide which layers have a window.
        max_len: the most tokens, all of which have room from the beginning; None to grow by doubling.
        spare: how many tokens ``crop`` can always drop from layers with a window. Assisted decoding asks for 128 by
            itself.

    Raises:
        TypeError: config is not a configuration of transformers, max_len or spare not an integer.
        ValueError: a configuration of a model that keeps no keys and values: encoders, recurrent models; of an
            encoder-decoder, or of layers of a kind that regard has no cache for; a max_len below 1, a spare below 0.
        ImportError: transformers is too old to tell the layers' types.
    """

    def __init__(self, config: PreTrainedConfig, *, max_len: int | None = None, spare: int = 0) -> None:
        _check_size(max_len, "max_len", 1)
        _check_size(spare, "spare", 0)
        layers: list[Any] = []
        for kind, options in _layers(config):
            if kind in ATTENTION:
                window = options.get("sliding_window")
                layers.append(AttentionLayer(window=window, max_len=max_len, spare=spare))
            else:
                layers.append(theirs.DYNAMIC_LAYER_TYPE_MAPPING[kind](**options))
        super().__init__(layers=layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the next tokens of one layer, and give all that their queries read."""
        if layer_idx >= len(self.layers):
            raise ValueError(
                f"layer_idx must be one of the {len(self.layers)} layers of the configuration, got {layer_idx}; "
                "make the cache from the model's own: regard.hf.Cache(model.config)"
            )
        found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return found

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last ``-tokens_to_remove`` tokens of each sequence; if a layer cannot, none does."""
        # The widest window is the first to refuse, and layers without one never do.
        layers: list[Any] = self.layers
        for layer in sorted(layers, key=lambda each: -(getattr(each, "sliding_window", None) or 0)):
            layer.crop(tokens_to_remove)


def _layers(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """The kind of each layer and what it is made with, or an error that says what the model has in their place."""
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(
            f"config must be a configuration of transformers, got {type(config).__name__}; "
            "regard.hf.Cache(model.config)"
        )
    decoder = config.get_text_config(decoder=True)
    name = f"{type(config).__name__} ({config.model_type})"
    if config.is_encoder_decoder:
        raise ValueError(
            f"config is of an encoder-decoder, {name}, whose cross-attention has a cache of its own; "
            "use transformers' EncoderDecoderCache"
        )
    if not hasattr(decoder, "use_cache") or _encodes(decoder):
        hint = "; as a decoder it has config.is_decoder=True" if hasattr(decoder, "is_decoder") else ""
        raise ValueError(
            f"config is of a model that reads its text at once and keeps nothing, as encoders do: {name}{hint}"
        )
    if not hasattr(theirs, "get_layer_types_and_kwargs"):
        raise ImportError("regard.hf.Cache needs a newer transformers: pip install --upgrade 'regard[hf]'")
    kinds, options = theirs.get_layer_types_and_kwargs(decoder)
    unknown = sorted(set(kinds) - {*ATTENTION, *OTHERS})
    if unknown:
        raise ValueError(
            f"config of {name} has layers that regard.hf.Cache cannot keep: {', '.join(unknown)}; expected "
            f"{', '.join(ATTENTION)}; use transformers' DynamicCache(config=model.config)"
        )
    # Models without attention and without layer types come out as all "full_attention", and have no heads.
    headless = getattr(decoder, "num_attention_heads", None) is None
    if headless or not any(kind in ATTENTION for kind in kinds):
        raise ValueError(
            f"config has no attention layers: {name} keeps a state and no keys and values; "
            "use the cache that the model makes itself"
        )
    return list(zip(kinds, options, strict=True))


def _encodes(config: PreTrainedConfig) -> bool:
    """Whether a model that could keep something is an encoder, as BERT is unless it was made a decoder."""
    masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and config.model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    # GPT-NeoX has is_decoder=False too, and nothing that it would decide.
    return getattr(config, "is_decoder", None) is False and (masked or hasattr(config, "add_cross_attention"))


def _check_size(size: Any, name: str, least: int) -> None:
    """An integer that is not too small; max_len may be None."""
    if size is None and name == "max_len":
        return
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an integer, got {type(size).__name__}")
    if size < least:
        raise ValueError(f"{name} must be at least {least}, got {size}")
