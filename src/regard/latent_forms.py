"""What chooses between the two forms of latent attention, and the norm of its latents."""

from __future__ import annotations

from torch import Tensor, nn

from regard import layer_options
from regard.fused_projection import untouched
from regard.projection import Projection

__all__ = ["draw", "is_plain", "normed", "products"]


def products(query_len: int, key_len: int, kv_rank: int, nope_dim: int, rotary_dim: int, v_dim: int) -> tuple[int, int]:
    """Multiplications of one head for L queries and S keys: in the absorbed form, and in the expanded one."""
    up, pairs = kv_rank * (nope_dim + v_dim), query_len * key_len
    absorbed = query_len * up + pairs * (2 * kv_rank + rotary_dim)
    expanded = key_len * up + pairs * (nope_dim + rotary_dim + v_dim)
    return absorbed, expanded


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is its weight and nothing besides: no adapter, no quantised weight, no hook."""
    if type(layer) not in (Projection, nn.Linear) or not untouched(layer):
        return False
    return layer.bias is None and type(layer.weight) in (Tensor, nn.Parameter)


def draw(layer: nn.Module) -> None:
    """New parameters for all of a layer but its positions, which somebody has made and may have trained."""
    for name, part in layer.named_children():
        if isinstance(part, nn.Linear):
            if name == "out_proj":
                part.reset_parameters()
            else:
                nn.init.xavier_uniform_(part.weight)
            bias: Tensor | None = part.bias
            if bias is not None:
                nn.init.zeros_(bias)
        elif name != "positions":
            layer_options.reset(part)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm in the dtype of its weight: under autocast, that of x is the dtype of a product."""
    weight: Tensor | None = getattr(norm, "weight", None)
    out: Tensor = norm(x if weight is None else x.to(weight.dtype))
    return out.to(x.dtype)
