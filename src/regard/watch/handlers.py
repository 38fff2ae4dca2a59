"""What is done with each function that attends: torch's own, and regard's."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, is_functorch_wrapped_tensor
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.overrides import _get_current_function_mode_stack

import regard
from regard import masks
from regard.watch.calls import Call, Given
from regard.watch.folded import unfolded
from regard.watch.mode import HANDLERS, Interceptor
from regard.watch.names import caller

__all__ = ["kernel_call", "sdpa_call", "stance_found", "unsuited"]

SDPA = "F.scaled_dot_product_attention"
# Operators under it, and those of them whose causal mask is aligned at the first query.
TOP_LEFT = (
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
)
KERNELS = (
    *TOP_LEFT,
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
CUT = (
    "it ran inside of a context that cuts the text over ranks, and was given this rank's share alone; a layer that "
    "calls regard.attention() has its weights there"
)
IN_FUNC = "it ran inside of torch.func (vmap, grad), whose tensors do not live on; call the model outside of it"


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
    rule = masks.causal(offset=0) if is_causal else None
    given: tuple[Given, ...] = ()
    cut = any(getattr(mode, "cuts_text", False) for mode in _get_current_function_mode_stack())
    refusal = CUT if cut else unsuited(query, key, attn_mask)
    if isinstance(attn_mask, CausalBias):
        square = attn_mask.seq_len_q == attn_mask.seq_len_kv
        upper = square or attn_mask.variant == CausalVariant.UPPER_LEFT
        rule = masks.causal(offset=0) if upper else masks.causal()
    elif attn_mask is not None and refusal is None:
        refusal = overriding(attn_mask)
        given = (Given("allow" if attn_mask.dtype == torch.bool else "float", attn_mask),)
    return Call(
        SDPA,
        query,
        key,
        mask=rule,
        given=given,
        scale=None if scale is None else float(scale),
        cast=cast(query),
        refusal=refusal,
    )


def overriding(mask: Tensor) -> str | None:
    """Why a mask of a class that says itself what torch functions do with it cannot be read; None for all others."""
    theirs, plain = (getattr(f, "__func__", f) for f in (type(mask).__torch_function__, Tensor.__torch_function__))
    if theirs in (plain, torch._C._disabled_torch_function_impl):
        return None
    return f"its mask is a {type(mask).__name__}, a tensor that decides itself how it masks; pass a plain tensor"


def cast(query: Tensor) -> torch.dtype | None:
    """What autocast rounds to inside of a torch function, where it is on."""
    device = query.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def unsuited(*tensors: Tensor | None) -> str | None:
    """Why the weights of these tensors cannot be had later; None if they can."""
    if any(level.key() != TransformType.Vmap for level in get_interpreter_stack() or ()):
        return IN_FUNC  # there even a plain tensor's detach() is one that does not live on
    for t in tensors:
        if t is None:
            continue
        if t.is_nested:
            return "query or key is a nested tensor; pad it, and mask the padding"
        if is_functorch_wrapped_tensor(t):
            return IN_FUNC
        if t.is_meta or type(t).__name__ == "FakeTensor":
            return "query, key or a mask holds no numbers (a meta or a fake tensor)"
    return None


def stance_found() -> AbstractContextManager[Any]:
    """What is compiled outside of a watch is compiled here too; another stance, set since, stays."""
    stance = torch._dynamo.eval_frame._stance.stance
    return torch.compiler.set_stance("default") if stance == "force_eager" else nullcontext()


def on_kernel(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator under F.scaled_dot_product_attention, as exported and decomposed graphs call it."""
    output = func(*args, **kwargs)
    if interceptor.listening and not _own(caller(2)):
        interceptor.tell(kernel_call(func, args, kwargs), depth=2)
    return output


def _own(frame: FrameType | None) -> bool:
    """Whether regard itself calls an operator, to answer a question."""
    while frame is not None and frame.f_globals.get("__name__") == "torch._ops":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "regard"


def kernel_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """What a call of such an operator attends with."""
    overload = func.default if isinstance(func, torch._ops.OpOverloadPacket) else func
    name = overload._schema.name.split("::")[1]
    given = {a.name: value for a, value in zip(overload._schema.arguments, args, strict=False)} | kwargs
    query, key, mask = given["query"], given["key"], given.get("attn_mask", given.get("attn_bias"))
    causal = bool(given.get("is_causal", False))
    call = sdpa_call(query, key, given["value"], mask, is_causal=causal, scale=given.get("scale"))
    call = replace(call, function=f"aten.{name}", cast=None)  # below autocast
    if causal and name == "_scaled_dot_product_flash_attention":  # flash_attn's own, aligned at the last query
        return replace(call, mask=masks.causal())
    if causal and name not in TOP_LEFT and query.shape[-2] != key.shape[-2]:
        return replace(call, refusal=call.refusal or f"{name} with is_causal, and more or fewer keys than queries")
    return call


def on_regard(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """regard.attention: the weights that it returned."""
    # What it compiles itself, on a GPU, it compiles here too.
    with stance_found():
        output, weights = func(*args, **kwargs)
    if interceptor.listening:
        call = regard_call(weights, *args, **kwargs)
        if not isinstance(weights, regard.AttentionWeights):  # of a text that is cut over ranks
            call = replace(call, function="regard.attention, this rank's queries")
        interceptor.tell(call, depth=2)
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
    read = [mask, options.get("bias"), options.get("sinks"), *(() if rule is None else rule.tensors())]
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
        refusal=unsuited(query, key, *(t for t in read if isinstance(t, Tensor))),
    )


for _op in (F.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention):
    HANDLERS[_op] = on_sdpa
HANDLERS[torch.ops.aten.scaled_dot_product_attention.default] = on_sdpa
HANDLERS[regard.attention] = on_regard
for _name in KERNELS:
    _op = getattr(torch.ops.aten, _name)
    HANDLERS[_op] = HANDLERS[_op.default] = on_kernel
