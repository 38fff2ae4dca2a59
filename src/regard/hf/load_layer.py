"""An attention layer of transformers as a layer of regard's."""

from __future__ import annotations

from typing import Any

from torch import nn

from regard import LatentAttention, MultiHeadAttention
from regard.hf.families import family_of
from regard.hf.families_latent import LatentParts
from regard.hf.families_others import T5, Bert
from regard.hf.load_checks import check_layer
from regard.hf.load_parts import Parts
from regard.hf.load_reader import Reader
from regard.positions import RelativeBias

__all__ = ["load", "read"]


def load(
    layer: nn.Module, config: Any = None, *, positions: RelativeBias | None = None
) -> MultiHeadAttention | LatentAttention:
    """The layer that computes what an attention layer of transformers computes, with copies of its parameters.

    ``load(layer)(x) == layer(x, ...)[0]``

    >>> import torch, transformers, regard
    >>> config = transformers.LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
    ...     intermediate_size=48, num_hidden_layers=1, vocab_size=99)
    >>> model = transformers.LlamaModel(config).eval()
    >>> layer = regard.hf.load(model.layers[0].self_attn)
    >>> layer.mask, layer.num_kv_heads, layer.positions
    (causal(), 2, Rotary(8))
    >>> layer(torch.rand(1, 5, 32)).shape
    torch.Size([1, 5, 32])

    The layer has all that the configuration says of this layer: causal or not, its window, rotary positions, norms of
    queries and keys, grouped heads, scale, softcap, sinks. It needs no mask but that of padding, and no
    position_embeddings. Which classes are known, and how near the two are, is in docs/hf_layers.md.

    What is the block's and not attention's stays outside: residuals, their dropout and norms. Loading changes nothing
    in the layer. dtype, device, requires_grad, dropout and training mode are kept. A layer that can be given a context
    (``encoder_hidden_states``, ``key_value_states``) is given it as ``context=``.

    Args:
        layer: an attention layer of a transformers model, of a class in the table; exactly that class, not a subclass.
        config: its configuration; layer.config if None.
        positions: for a layer of T5 that adds the relative bias of the first layer of its stack: the positions of that
            layer, once loaded. They are shared, not copied.

    Returns:
        A :class:`regard.MultiHeadAttention`; a :class:`regard.LatentAttention` for DeepSeek-V3.

    Raises:
        TypeError: layer is no module.
        ValueError: a class that is not known; something in the configuration or the layer that regard's layer does not
            compute, adapters, quantised weights and hooks among it; a configuration of another model.
    """
    parts = read(layer, config, positions=positions)
    return parts.layer().train(layer.training)


def read(layer: nn.Module, config: Any = None, *, positions: RelativeBias | None = None) -> Parts | LatentParts:
    """The parts that :func:`load` makes a layer of, as functions of the layer's parameters."""
    family = family_of(layer)
    check_layer(layer)
    if config is None:
        config = getattr(layer, "config", None)
    if config is None and isinstance(family.how, Bert):
        config = getattr(layer.get_submodule("self"), "config", None)
    reader = Reader(layer, config)
    parts: Parts | LatentParts
    if isinstance(family.how, T5):
        parts = family.how.read(reader, positions)
    elif positions is not None:
        raise ValueError(f"positions must be None for a {type(layer).__name__}: only layers of T5 share them")
    else:
        parts = family.how.read(reader)
    reader.check_all_read()
    return parts
