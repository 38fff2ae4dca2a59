"""What is done with each function that attends: torch's own, and regard's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard import masks
from regard.watch.calls import Call, Given
from regard.watch.folded import unfolded
from regard.watch.mode import HANDLERS, Interceptor
from regard.watch.names import caller

__all__ = ["sdpa_call", "unsuited"]

SDPA = "F.scaled_dot_product_attention"


def on_sdpa(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """F.scaled_dot_product_attention: run it, and tell of it."""
    output = func(*args, **kwargs)
    if interceptor.listening:
        interceptor.tell(unfolded(sdpa_call(*args, **kwargs), caller(2)), depth=2)
    return output


def sdpa_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """What a call of F.scaled_dot_product_attention attends with."""
    given = () if attn_mask is None else (Given("allow" if attn_mask.dtype == torch.bool else "float", attn_mask),)
    return Call(
        SDPA,
        query,
        key,
        mask=masks.causal(offset=0) if is_causal else None,
        given=given,
        scale=None if scale is None else float(scale),
        cast=cast(query),
        refusal=unsuited(query, key),
    )


def cast(query: Tensor) -> torch.dtype | None:
    """What autocast rounds to inside of a torch function, where it is on."""
    device = query.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def unsuited(*tensors: Tensor) -> str | None:
    """Why the weights of these tensors cannot be had later; None if they can."""
    for t in tensors:
        if t.is_nested:
            return "query or key is a nested tensor; pad it, and mask the padding"
        if torch._C._functorch.is_functorch_wrapped_tensor(t):
            return (
                "it ran inside of torch.func (vmap, grad), whose tensors do not live on; call the model outside of it"
            )
        if t.is_meta or type(t).__name__ == "FakeTensor":
            return "query or key holds no numbers (a meta or a fake tensor)"
    return None


def on_regard(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """regard.attention: the weights that it returned."""
    # What it compiles itself, on a GPU, it compiles here too.
    with torch.compiler.set_stance("default"):
        output, weights = func(*args, **kwargs)
    if interceptor.listening:
        interceptor.tell(regard_call(weights, *args, **kwargs), depth=2)
    return output, weights


def regard_call(
    weights: regard.AttentionWeights,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any = None,
    **options: Any,
) -> Call:
    """What a call of regard.attention attends with."""
    rule = mask if isinstance(mask, masks.Mask) else None
    return Call(
        "regard.attention",
        query,
        key,
        mask=rule,
        given=() if mask is None or rule is not None else (Given("allow", mask),),
        bias=options.get("bias"),
        scale=options.get("scale"),
        softcap=options.get("softcap"),
        sinks=options.get("sinks"),
        answer=weights,
        refusal=unsuited(query, key),
    )


for _op in (F.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention):
    HANDLERS[_op] = on_sdpa
HANDLERS[torch.ops.aten.scaled_dot_product_attention.default] = on_sdpa
HANDLERS[regard.attention] = on_regard
