"""F.multi_head_attention_forward, which nn.MultiheadAttention and torch's Transformer layers go through.

Under a mode torch asks it through the function protocol, with the layer's inputs and not with query and key. What runs
is torch's own code, not asked again, with stand-ins for the functions that it hands query and key to, so that nothing
is projected twice.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard import masks
from regard.watch.calls import Call, Given
from regard.watch.handlers import cast, unsuited
from regard.watch.mode import HANDLERS, Interceptor

__all__ = ["on_mha"]

NAME = "F.multi_head_attention_forward"
PARAMETERS = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


class Inside:
    """The products of query and key inside of the function, the first that are made."""

    def __init__(self) -> None:
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        self.causal = False
        self.scaled = False  # whether the scale is in query already

    def bmm(self, query: Tensor, keys: Tensor) -> Tensor:
        """torch.bmm(q, k.mT), and later of the weights and values."""
        self._products(query, keys)
        return torch.bmm(query, keys)

    def baddbmm(self, mask: Tensor, query: Tensor, keys: Tensor) -> Tensor:
        """torch.baddbmm(mask, q, k.mT)."""
        self._products(query, keys)
        return torch.baddbmm(mask, query, keys)

    def _products(self, query: Tensor, keys: Tensor) -> None:
        if self.query is None:
            self.query, self.key, self.scaled = query, keys.mT, True  # (B * H, L, D), (B * H, D, S) -> (B * H, S, D)


class Torch:
    """torch, but for the products."""

    def __init__(self, inside: Inside) -> None:
        self.bmm, self.baddbmm = inside.bmm, inside.baddbmm

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def on_mha(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """F.multi_head_attention_forward: run it, and tell of what it attended with."""
    if not interceptor.listening:
        return _unasked(func)(*args, **kwargs)
    inside = Inside()
    attend = func.__globals__["scaled_dot_product_attention"]

    def attention(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool
    ) -> Tensor:
        inside.query, inside.key, inside.causal = query, key, is_causal
        return attend(query, key, value, mask, dropout_p, is_causal)  # type: ignore[no-any-return]

    output = _unasked(func, torch=Torch(inside), scaled_dot_product_attention=attention)(*args, **kwargs)
    if inside.query is not None:
        interceptor.tell(_call(inside, {**dict(zip(PARAMETERS, args, strict=False)), **kwargs}), depth=2)
    return output


def _unasked(func: Any, **instead: Any) -> Callable[..., Any]:
    """The same code, without the question whether somebody overrides it, and with others in the place of some names."""
    names = {**func.__globals__, "has_torch_function": lambda _: False, **instead}
    copy = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _call(inside: Inside, given: dict[str, Any]) -> Call:
    """The call, its masks as they were given to the layer: what torch makes of them is as large as the weights."""
    query, key = inside.query, inside.key
    assert query is not None
    assert key is not None
    heads = given["num_heads"]
    if query.dim() == 3:
        query, key = (t.unflatten(0, (-1, heads)) for t in (query, key))  # (B * H, L, D) -> (B, H, L, D)
    appended = (0 if given.get("bias_k") is None else 1) + (1 if given.get("add_zero_attn") else 0)
    parts: list[Given] = []
    attn_mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if attn_mask is not None and not inside.causal:
        parts.append(Given(_kind(attn_mask), attn_mask, _per_head(heads)))
    if padding is not None:
        parts.append(Given(_kind(padding), padding, _per_sequence, along_keys=True))
    return Call(
        NAME,
        query,
        key,
        mask=masks.causal(offset=0) if inside.causal else None,
        given=tuple(parts),
        scale=1.0 if inside.scaled else None,
        appended=appended,
        cast=cast(query),
        refusal=unsuited(query, key, attn_mask, padding),
    )


def _kind(mask: Tensor) -> str:
    return "forbid" if mask.dtype == torch.bool else "float"


def _per_head(heads: int) -> Callable[[Tensor], Tensor]:
    """Brings attn_mask (L, S) or (B * H, L, S) to (L, S) or (B, H, L, S)."""
    return lambda t: t if t.dim() == 2 else t.unflatten(0, (-1, heads))


def _per_sequence(padding: Tensor) -> Tensor:
    """Brings key_padding_mask (S,) of one sequence without a batch to (1, S)."""
    return padding if padding.dim() == 2 else padding[None]


HANDLERS[F.multi_head_attention_forward] = on_mha
