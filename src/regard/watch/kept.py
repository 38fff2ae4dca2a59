"""What is kept of a call until its weights are asked for, and how they are posed then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard import AttentionWeights, attention_weights, masks
from regard.masks import Mask
from regard.watch.calls import Call, grouped
from regard.watch.held import Held, Holder, Keys

if TYPE_CHECKING:
    from regard.biases import Bias

__all__ = ["Kept", "Posed"]

# In the place of what is held elsewhere.
NOTHING = torch.empty(0)


@dataclass(frozen=True, eq=False)
class Posed:
    """Arguments of :func:`regard.attention_weights`."""

    query: Tensor
    key: Tensor
    mask: Mask | None
    bias: Tensor | Bias | None
    scale: float | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def query_len(self) -> int:
        """L."""
        return self.query.shape[-2]

    @property
    def key_len(self) -> int:
        """S."""
        return self.key.shape[-2]


@dataclass(eq=False)
class Kept:
    """A call whose tensors are held: query, the keys (which may have grown since), masks and whatever else it read."""

    call: Call
    shape: torch.Size
    dtype: torch.dtype
    query: Held
    keys: Keys
    given: tuple[Held, ...]
    others: dict[str, Held]
    detached: bool
    copied: bool

    @classmethod
    def of(cls, call: Call, holder: Holder, earlier: Kept | None) -> Kept:
        """Refer to the tensors of a call; keys that extend those of an earlier call are held once."""
        if call.refusal is not None:
            nothing = Held(NOTHING, private=True)
            refused = replace(call, query=NOTHING, key=NOTHING, given=(), bias=None, sinks=None, also=(), lazily=None)
            shape = torch.Size(()) if call.query.is_nested or call.key.is_nested else call.shape
            return cls(refused, shape, call.dtype, nothing, Keys(nothing), (), {}, holder.detach, True)
        shape, dtype = call.shape, call.dtype
        query, key = holder.tensor(call.query), holder.tensor(call.key)
        keys = Keys(key)
        if earlier is not None and holder.detach and earlier.keys.extended_by(key.tensor):
            keys = earlier.keys
            keys.extend(key)
            # What the earlier call returned has its own key, shorter than this one: it is posed again when asked.
            if isinstance(earlier.call.answer, AttentionWeights):
                earlier.call = replace(earlier.call, answer=None)
        given = tuple(holder.mask(g.tensor) for g in call.given)
        changes: dict[str, object] = {
            "query": NOTHING,
            "key": NOTHING,
            "given": tuple(replace(g, tensor=h.tensor) for g, h in zip(call.given, given, strict=True)),
        }
        others = {}
        for name in ("bias", "sinks"):
            t = getattr(call, name)
            if isinstance(t, Tensor):
                others[name] = holder.mask(t)
                changes[name] = others[name].tensor
        read = (*call.also, *(() if call.mask is None else call.mask.tensors()))
        others.update((f"tensor {n} of the mask", Held(t.detach(), private=False)) for n, t in enumerate(read))
        if call.answer is not None and holder.hold == "reference":
            changes["answer"] = call.answer.detach() if holder.detach else call.answer
        elif isinstance(call.answer, AttentionWeights):
            changes["answer"] = None
        kept = replace(call, **changes)  # type: ignore[arg-type]
        return cls(kept, shape, dtype, query, keys, given, others, holder.detach, holder.hold != "reference")

    def modified(self) -> str | None:
        """The name of a tensor that was written to since it was seen."""
        held = {"query": self.query, "key": self.keys.held, **self.others}
        held.update((f"mask {n}" if n else "mask", g) for n, g in enumerate(self.given))
        return next((name for name, h in held.items() if h.modified), None)

    def weights(self) -> AttentionWeights:
        """The weights, posed from what is held."""
        if self.call.answer is not None:
            return self.call.answer
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detached):
            p = self.posed()
            return attention_weights(
                p.query, p.key, p.mask, bias=p.bias, scale=p.scale, softcap=p.softcap, sinks=p.sinks
            )

    def posed(self) -> Posed:
        """The arguments of :func:`regard.attention_weights`."""
        call = self.call
        query, key = self.query.tensor.to(self.dtype), self.keys.front(self.shape[-1]).to(self.dtype)
        query, key = aligned(query, key, self.shape)
        mask, bias, scale, softcap = call.mask, call.bias, call.scale, call.softcap
        if mask is not None and any(t.device != query.device for t in mask.tensors()):
            mask = moved(mask, query, key)
        for given, held in zip(call.given, self.given, strict=True):
            allowed, added = self._parts(given.kind, held, given.along_keys)
            if allowed is not None:
                allowed = extended(allowed if given.shaped is None else given.shaped(allowed), call.appended)
                more = masks.padding(allowed) if given.along_keys else masks.dense(allowed)
                mask = more if mask is None else mask & more
            if added is not None:
                added = extended(added if given.shaped is None else given.shaped(added), call.appended)
                added = added[:, None, None, :] if given.along_keys else added  # (B, S) -> (B, 1, 1, S)
                bias = added if bias is None else bias + added  # type: ignore[operator]
        if call.lazily is not None:
            lazy = call.lazily(query, key)
            softcap = lazy.softcap if lazy.softcap is not None else softcap
            if lazy.allowed is not None:
                mask = masks.dense(lazy.allowed) if mask is None else mask & masks.dense(lazy.allowed)
            if lazy.bias is not None:
                bias = lazy.bias if bias is None else bias + lazy.bias  # type: ignore[operator]
            scale = (query.shape[-1] ** -0.5 if scale is None else scale) * lazy.factor
        if isinstance(bias, Tensor) and bias.dtype not in (torch.float32, query.dtype):
            bias = bias.to(query.dtype)
        return Posed(query, key, mask, bias, scale, softcap, call.sinks)

    def _parts(self, kind: str, held: Held, along_keys: bool) -> tuple[Tensor | None, Tensor | None]:
        """What a mask allows, and what it adds."""
        if kind == "allow":
            return held.tensor, None
        return held.inverted() if kind == "forbid" else held.split(self.dtype)


def aligned(query: Tensor, key: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Query (..., H, L, D) and key (..., Hkv, S, D) with the same batch axes; nothing is copied but a rare key."""
    wanted = tuple(shape[:-2])
    kv = wanted
    if grouped(query, key) and len(wanted) > 1:
        kv = (*wanted[:-1], key.shape[-3])
    elif grouped(query, key) and key.shape[-3] > 1:  # without a batch, heads are a batch of themselves
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)  # (Hkv, S, D) -> (H, S, D)
    return query.expand(*wanted, *query.shape[-2:]), key.expand(*kv, *key.shape[-2:])


def extended(t: Tensor, appended: int) -> Tensor:
    """A mask (..., S) for some keys more, which it leaves as they are; the tensor itself where there are none."""
    return torch.nn.functional.pad(t, (0, appended), value=float(t.dtype == torch.bool)) if appended else t


def moved(mask: Mask, query: Tensor, key: Tensor) -> Mask:
    """A rule on another device than query, as booleans on that of query."""
    at = next(t.device for t in mask.tensors())
    batch, heads = int(torch.Size(query.shape[:-3]).numel()), query.shape[-3] if query.dim() > 3 else 1
    full = mask.to_dense(query.shape[-2], key.shape[-2], batch=batch, num_heads=heads, device=at)
    return masks.dense(full.to(query.device))
