"""register(): the name "regard" among the attention implementations of transformers."""

from __future__ import annotations

import inspect
from types import ModuleType

__all__ = ["NAME", "register"]

NAME = "regard"
"""What the implementation is called: ``attn_implementation="regard"``."""


def register() -> str:
    """Makes ``attn_implementation="regard"`` known to transformers, with the masks that belong to it.

    >>> import regard, torch, transformers
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     num_key_value_heads=2, attn_implementation=regard.hf.register())
    >>> model = transformers.LlamaModel(config).eval()
    >>> outputs = model(torch.arange(8)[None], output_attentions=True)
    >>> outputs.attentions[0].shape, outputs.attentions[0].entropy().shape
    (torch.Size([1, 4, 8, 8]), torch.Size([1, 4, 8]))

    A model that is there already changes over by ``model.set_attn_implementation("regard")``. True in a mask = may
    attend; the alignment of queries and keys is the one that the model asks for. A query that may read no key, which is
    padding, gives 0, where eager attention gives the mean of all values; no other row reads it.

    Calling it again changes nothing.

    Returns:
        The name, ``"regard"``.

    Raises:
        ImportError: transformers is not installed, or too old.
    """
    transformers = _transformers()
    from regard.hf.attention import attention_forward
    from regard.hf.mask_interface import attention_mask

    transformers.AttentionInterface.register(NAME, attention_forward)
    transformers.AttentionMaskInterface.register(NAME, attention_mask)
    return NAME


def _transformers() -> ModuleType:
    """The package, with both interfaces and masks that are asked for by q_length and q_offset."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "regard.hf.register() needs Hugging Face transformers: pip install 'regard[hf]'", name="transformers"
        ) from error
    missing = [name for name in ("AttentionInterface", "AttentionMaskInterface") if not hasattr(transformers, name)]
    if not missing:
        from transformers.masking_utils import sdpa_mask

        asked = inspect.signature(sdpa_mask).parameters
        missing = [f"masks by {name}" for name in ("q_length", "q_offset") if name not in asked]
    if missing:
        raise ImportError(
            f"regard.hf.register() needs a newer transformers: {transformers.__version__} has no {missing[0]}; "
            "pip install --upgrade 'regard[hf]'"
        )
    return transformers
