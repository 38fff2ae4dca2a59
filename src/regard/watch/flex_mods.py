"""The functions that flex_attention is given, read: a mask_mod and its blocks as a rule, a score_mod as a bias."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.watch.calls import Lazy
from regard.watch.held import narrowed

__all__ = ["Blocks", "entrywise", "read", "rule"]

Mod = Callable[..., Tensor]

# Scores that every entry is tried with, besides its own.
SCORES = (1.0, -1.0, 7.3, -30.0, 60.0, 1000.0, -1000.0, 1e6)
FAR = SCORES[-1]
# Entries that are tried at once.
ENTRIES = 1 << 21


def entrywise(mod: Mod, *index: Tensor) -> Tensor:
    """``mod`` entry by entry, as flex_attention calls it, on tensors that broadcast to the result.

    Axes that it does not depend on have stride 0.
    """
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    shape = torch.broadcast_shapes(*(t.shape for t in index))
    index = tuple(t.view((1,) * (len(shape) - t.dim()) + t.shape) for t in index)
    function = mod
    for axis in reversed(range(len(shape))):
        if shape[axis] != 1:
            function = torch.vmap(function, in_dims=tuple(None if t.shape[axis] == 1 else 0 for t in index))
    index = tuple(t.view([n for n in t.shape if n != 1]) for t in index)
    if len(shape) == 0:
        return function(*index)
    with TransformGetItemToIndex():
        found = function(*index)
    for axis, size in enumerate(shape):
        if size == 1:
            found = found.unsqueeze(axis)
    return found


class Blocks:
    """The blocks that compiled flex_attention reads: some whole, some where mask_mod allows it, the rest not at all."""

    def __init__(self, block_mask: tuple[Any, ...]) -> None:
        self.partial: tuple[Tensor, Tensor] = block_mask[2:4]
        self.full: tuple[Tensor, Tensor] | None = None if block_mask[4] is None else block_mask[4:6]
        self.key_len: int = block_mask[1]
        self.sizes: tuple[int, int] = block_mask[-3:-1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What says which blocks these are."""
        return self.partial if self.full is None else (*self.partial, *self.full)

    @property
    def everything(self) -> bool:
        """Whether there is one block, which holds all entries."""
        return self.partial[1].shape[-2:].numel() == 1

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Whether a block is read, and whether all of it is, (B or 1, H or 1, query blocks, key blocks) each."""
        count = -(-self.key_len // self.sizes[1])
        return _blocks(*self.partial, count), None if self.full is None else _blocks(*self.full, count)

    def allowed(self, mod: Mod, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        """What mask_mod allows, within the blocks."""
        rows, cols = q // self.sizes[0], kv // self.sizes[1]

        def at(blocks: Tensor) -> Tensor:
            return blocks[b if blocks.shape[0] > 1 else 0 * b, h if blocks.shape[1] > 1 else 0 * h, rows, cols]

        partial, full = self.dense()
        allowed = at(partial) & entrywise(mod, b, h, q, kv)
        return allowed if full is None else allowed | at(full)


def _blocks(counts: Tensor, indices: Tensor, key_blocks: int) -> Tensor:
    """The first ``counts`` of ``indices`` as booleans (B, H, query blocks, key_blocks)."""
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts[..., None]
    at = torch.where(listed, indices, key_blocks).long()  # one more, for what is not listed
    found = torch.zeros(*indices.shape[:-1], key_blocks + 1, dtype=torch.bool, device=indices.device)
    return found.scatter_(-1, at, True)[..., :key_blocks]


def rule(mod: Mod, check: Callable[[], None], blocks: Blocks | None) -> Mod:
    """A mask_mod as a rule on index tensors that broadcast, which reads what it read when it was called."""

    def allowed(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            check()
        if blocks is not None:
            return blocks.allowed(mod, b, h, q, kv)
        return entrywise(mod, b, h, q, kv)

    allowed.__name__ = named(mod)
    return allowed


def named(mod: Any) -> str:
    """What a function is called."""
    if isinstance(mod, functools.partial):
        return named(mod.func)
    return str(getattr(mod, "__name__", type(mod).__name__))


def read(score_mod: Mod, query: Tensor, key: Tensor, scale: float) -> Lazy:
    """A score_mod as a bias, a factor and a softcap: ``factor * score + bias``, or ``cap * tanh(score / cap) + bias``.

    Every entry is tried, with its own score and with a few others; some rows at a time. The bias is as large as the
    weights, unless it is the same for all heads, sequences or keys.

    Raises:
        NotImplementedError: it is nothing of the kind, or cannot be called entry by entry.
    """
    if 0 in (*query.shape[:3], key.shape[2]):
        return Lazy()
    wide = torch.float32 if query.device.type == "mps" else torch.float64
    lengths = (*query.shape[:3], key.shape[2])
    axes = [torch.arange(n, device=query.device) for n in lengths]
    rows = max(1, ENTRIES // (lengths[0] * lengths[1] * lengths[3]))
    form: tuple[float, float | None] | None = None
    zeros: list[Tensor] = []
    for start in range(0, lengths[2], rows):
        part = slice(start, start + rows)
        index = [axis.view([-1 if n == place else 1 for n in range(4)]) for place, axis in enumerate(axes)]
        index[2] = index[2][:, :, part]
        zero = _modified(score_mod, torch.zeros((), dtype=wide, device=query.device), index)  # (B, H, rows, S)
        # Heads and sequences that it does not tell apart are one; all rows stay, for the parts are joined.
        zeros.append(_kept_rows(zero))
        with torch.no_grad():
            base = narrowed(zero.detach())
            scores = [torch.full((), s, dtype=wide, device=query.device) for s in SCORES]
            moved = [_moved(score_mod, s, index, base) for s in scores]
            if form is None:
                form = _form(moved, base)
            own = _scores(query[:, :, part].to(wide), key.to(wide), scale)
            for s, m in zip([*scores, own], [*moved, _moved(score_mod, own, index, base)], strict=True):
                _require(score_mod, m, s, base, form)
    return _lazy(torch.cat(zeros, 2), form or (1.0, None), query.dtype)


def _lazy(added: Tensor, form: tuple[float, float | None], dtype: torch.dtype) -> Lazy:
    added = added.to(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)
    allowed = added > -torch.inf
    added = added.masked_fill(~allowed, 0)
    bias = added if added.requires_grad or bool(added.any()) else None
    return Lazy(None if bool(allowed.all()) else allowed, bias, *form)


def _kept_rows(t: Tensor) -> Tensor:
    """The tensor with all its rows, and each other axis cut to 1 if it was expanded."""
    small = narrowed(t)
    return small.expand(*small.shape[:2], t.shape[2], small.shape[3])


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The scores (B, H, L, S) that score_mod was given."""
    groups = query.shape[1] // key.shape[1]
    scores: Tensor = query.unflatten(1, (-1, groups)) @ key[:, :, None].mT  # (B, Hkv, G, L, S)
    return (scores * scale).flatten(1, 2)


def _modified(score_mod: Mod, scores: Tensor, index: Sequence[Tensor]) -> Tensor:
    try:
        return entrywise(score_mod, scores, *index)
    except Exception as error:
        raise NotImplementedError(
            f"flex_attention(score_mod={named(score_mod)}): it cannot be asked for the bias that it adds, entry by "
            f"entry ({type(error).__name__}: {error})"
        ) from error


def _moved(score_mod: Mod, scores: Tensor, index: Sequence[Tensor], zero: Tensor) -> Tensor:
    """How far from that of a score of 0; NaN where one is forbidden and the other is not, 0 where both are."""
    found = narrowed(_modified(score_mod, scores, index))
    forbidden = found == -torch.inf
    moved = torch.where(forbidden & (zero == -torch.inf), 0, found - zero)
    return torch.where(forbidden ^ (zero == -torch.inf), torch.nan, moved)


def _form(moved: Sequence[Tensor], zero: Tensor) -> tuple[float, float | None] | None:
    """The factor and the softcap that one entry has; None while all entries are forbidden."""
    read_at = zero > -torch.inf
    if not bool(read_at.any()):
        return None
    place = int(zero.abs().masked_fill(~read_at, torch.inf).argmin())  # where the least is rounded away
    at = [int(i) for i in torch.unravel_index(torch.tensor(place), zero.shape)]
    found = [float(m[tuple(min(i, n - 1) for i, n in zip(at, m.shape, strict=True))]) for m in moved]
    slope, cap = found[SCORES.index(1000.0)] / 1000, found[-1]
    if abs(slope - 1) < 1e-6:
        return 1.0, None
    if 0 < cap < FAR / 2 and abs(cap - slope * FAR) > 1e-3 * cap:
        return 1.0, cap
    return slope, None


def _require(
    score_mod: Mod, moved: Tensor, scores: Tensor, zero: Tensor, form: tuple[float, float | None] | None
) -> None:
    """Raise unless all entries are moved as the form says."""
    factor, softcap = form or (1.0, None)
    forbidden = zero == -torch.inf
    expected = factor * scores if softcap is None else softcap * torch.tanh(scores / softcap)
    expected = torch.where(forbidden, 0, expected)
    rounded = 8 * torch.finfo(zero.dtype).eps * torch.where(forbidden, 0, zero).abs()
    if not bool(((moved - expected).abs() <= 1e-4 + 1e-6 * expected.abs() + rounded).all()):
        raise NotImplementedError(
            f"flex_attention(score_mod={named(score_mod)}): the weights can be had where score_mod adds a bias, "
            "multiplies by one number, or caps with one tanh; this one does something else"
        )
