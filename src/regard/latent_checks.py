"""The error messages of latent attention: the argument, what came, what was expected, the likely fix."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from regard import layer_checks
from regard.cache_buffers import Cached
from regard.functional import as_mask
from regard.latent_cache import LatentCache
from regard.masks.algebra import Mask, Sizes
from regard.positions import Positions

__all__: list[str] = []


def check_positions(positions: Any, num_heads: int, rotary_dim: int) -> Positions:
    """Positions that turn queries and keys, and fit the columns that carry them."""
    if not isinstance(positions, Positions):
        raise TypeError(
            f"positions must be a regard.positions.Positions, got {type(positions).__name__}; "
            f"the paper's are regard.positions.Rotary({rotary_dim}, pairing='interleaved')"
        )
    if type(positions).bias is not Positions.bias:
        raise ValueError(
            f"positions must turn queries and keys, got {type(positions).__name__}, which adds to the scores; latent "
            "attention keeps its positions in rotary_dim columns of their own: regard.positions.Rotary(rotary_dim)"
        )
    positions.check_layer(num_heads=num_heads, num_kv_heads=1, head_dim=rotary_dim)
    return positions


def check_call(cache: Any, x: Tensor, lengths: Any, widths: tuple[int, int]) -> None:
    """A cache is a LatentCache of this layer's widths and x's batch, and says itself where x begins."""
    if cache is not None and has_torch_function((x,)):  # a mode in which there can be none
        handle_torch_function(check_call, (x,), cache, x, lengths, widths)
        return
    if cache is None:
        layer_checks.check_no_lengths(lengths)
        return
    if not isinstance(cache, LatentCache):
        raise TypeError(
            f"cache must be a regard.LatentCache, got {type(cache).__name__}; "
            "make one with layer.latent_cache(batch_size, max_len)"
        )
    if (cache.kv_rank, cache.rotary_dim) != widths:
        raise ValueError(
            f"cache must have the layer's (kv_rank, rotary_dim) = {widths}, got {(cache.kv_rank, cache.rotary_dim)}; "
            "make one with layer.latent_cache(batch_size, max_len)"
        )
    if x.dim() not in (2, 3):
        raise ValueError(f"x must be (B, L, d_in) or (L, d_in) with a cache, got shape {tuple(x.shape)}")
    batch = 1 if x.dim() == 2 else x.shape[0]
    if batch != cache.batch_size:
        raise ValueError(
            f"x must hold the {cache.batch_size} sequences of the cache, got {batch}, shape {tuple(x.shape)}; "
            "cache.reorder() changes their number"
        )


def checked_append(
    cache: LatentCache, num_heads: int, latent: Tensor, rotary_key: Tensor, lengths: Any, mask: Mask | Tensor | None
) -> Cached:
    """Append to a cache after the mask has been asked, so that a call that fails leaves the cache as it was."""
    if mask is not None:
        batch, query_len = latent.shape[:2]
        key_len = max(cache._span(query_len, lengths)[1])
        layer_checks.check_mask_axes(mask, num_heads, latent, key_len)
        as_mask(mask).bind(Sizes((batch,), num_heads, query_len, key_len, latent.device))
    return cache.append(latent, rotary_key, lengths, mask=mask)
