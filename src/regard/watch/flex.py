"""flex_attention: its mask_mod is a mask of regard's, its score_mod is read as a bias where it is one."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from regard import masks
from regard.watch.calls import Call, Lazy
from regard.watch.errors import UncompiledWarning
from regard.watch.handlers import cast, unsuited
from regard.watch.mode import HANDLERS, Interceptor
from regard.watch.names import caller

__all__ = ["on_flex"]

NAME = "flex_attention"
HOP = torch.ops.higher_order.flex_attention
PUBLIC = torch_flex.flex_attention.__code__

# Entries of a score_mod that are tried, and the scores that they are tried with.
TRIED = 64
SCORES = (0.0, 1.0, -2.5, 7.0, 40.0)
FAR = 1e6


def on_flex(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator under flex_attention: run it as it would have run, and tell of it."""
    output = _in_blocks(args) if _compiled(caller(1)) else None
    if output is None:
        output = func(*args, **kwargs)
    if interceptor.listening:
        interceptor.tell(_call(*args, **kwargs), depth=2)
    return output


def _compiled(frame: FrameType | None) -> bool:
    """Whether flex_attention was called by compiled code, which computes in blocks what eager code does at once."""
    inside = True
    while frame is not None:
        code = frame.f_code
        if code is PUBLIC:
            inside = False
        elif not inside and code.co_name == "compile_wrapper" and code.co_filename.endswith("eval_frame.py"):
            return True
        frame = frame.f_back
    return False


def _in_blocks(args: tuple[Any, ...]) -> Any:
    """The operator compiled, as outside of a watch; None, with a warning, where that fails."""
    if any(len(buffers) for buffers in args[7:]):  # lifted by a tracer: what runs is a graph already
        return None
    options = args[6] or {}
    outputs = 3 if options.get("OUTPUT_MAX", True) else 2 if options.get("OUTPUT_LOGSUMEXP", True) else 1
    try:
        with torch.compiler.set_stance("default"):
            found = _compiled_operator(outputs)(*args[:7])
        return *found, *(found[0].new_empty(0) for _ in range(3 - outputs))
    except Exception as error:
        warnings.warn(
            f"flex_attention could not be compiled while it is watched ({type(error).__name__}), and runs eagerly: the "
            "scores of all queries and keys are in memory at once",
            UncompiledWarning,
            stacklevel=5,
        )
        return None


@cache
def _compiled_operator(outputs: int) -> Callable[..., Any]:
    # Not every backend gives the lse and the largest score, and none may be asked for them in vain.
    return torch.compile(lambda *args: HOP(*args)[:outputs], fullgraph=True)


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: Any = None,
    score_mod_other_buffers: tuple[Any, ...] = (),
    mask_mod_other_buffers: tuple[Any, ...] = (),
) -> Call:
    mask_mod = block_mask[-1]
    mask = None if mask_mod is torch_flex.noop_mask else masks.where(mask_mod)
    plain = score_mod is torch_flex._identity
    name = f"score_mod {getattr(score_mod, '__name__', type(score_mod).__name__)}"
    return Call(
        NAME,
        query,
        key,
        mask=mask,
        scale=float(scale),
        cast=cast(query),
        lazily=None if plain else (lambda q, k: read(score_mod, q, k)),
        lazy_name="" if plain else name,
        also=(*captured(mask_mod), *(() if plain else captured(score_mod))),
        refusal=unsuited(query, key),
    )


def captured(function: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors that a function captured, and that those which it captured did."""
    for value in inspect.getclosurevars(function).nonlocals.values() if inspect.isfunction(function) else ():
        if isinstance(value, Tensor):
            yield value
        elif depth and inspect.isfunction(value):
            yield from captured(value, depth - 1)


def read(score_mod: Callable[..., Tensor], query: Tensor, key: Tensor) -> Lazy:
    """A score_mod as a bias, a factor and a softcap: ``factor * score + bias``, or ``cap * tanh(score / cap) + bias``.

    Found out on a few entries; the bias is then made for all of them: as large as the weights, unless it is the same
    for all heads or sequences.

    Raises:
        NotImplementedError: it is nothing of the kind.
    """
    b, h, query_len, key_len = *query.shape[:3], key.shape[2]
    wide = torch.float32 if query.dtype in (torch.float16, torch.bfloat16) else query.dtype
    generator = torch.Generator().manual_seed(0)
    tried = [torch.randint(n, (TRIED,), generator=generator).to(query.device) for n in (b, h, query_len, key_len)]
    at = [_modified(score_mod, torch.full((TRIED,), s, dtype=wide, device=query.device), tried) for s in SCORES]
    zero = at[0]
    read_at = zero > -torch.inf  # an entry of -inf is forbidden, and must be for all scores
    scores = torch.tensor(SCORES, dtype=wide, device=query.device)
    moved = torch.stack([torch.where(read_at, a - zero, 0) for a in at])  # (scores, TRIED)
    if not all(bool(((a == -torch.inf) == ~read_at).all()) for a in at):
        raise _refusal(score_mod)
    factor, softcap = 1.0, None
    if bool(read_at.any()) and not _follows(moved, scores[:, None], read_at):
        far = _modified(score_mod, torch.full((TRIED,), FAR, dtype=wide, device=query.device), tried) - zero
        slope, cap = float(moved[1][read_at][0]), float(far[read_at][0])
        if _follows(moved, slope * scores[:, None], read_at):
            factor = slope
        elif 0 < cap < FAR / 2 and _follows(moved, cap * torch.tanh(scores[:, None] / cap), read_at):
            softcap = cap
        else:
            raise _refusal(score_mod)
    allowed, bias = _dense(score_mod, query, key, wide)
    return Lazy(allowed, bias, factor, softcap)


def _follows(moved: Tensor, expected: Tensor, read_at: Tensor) -> bool:
    """Whether scores are moved as expected, where they are read."""
    expected = torch.where(read_at, expected, 0)
    return torch.allclose(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-4)


def _modified(score_mod: Callable[..., Tensor], scores: Tensor, index: list[Tensor]) -> Tensor:
    """score_mod entry by entry, as flex_attention calls it."""
    return torch.vmap(score_mod)(scores, *index)


def _dense(
    score_mod: Callable[..., Tensor], query: Tensor, key: Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """What score_mod allows and adds, (B or 1, H or 1, L, S) each; None for all, and for nothing."""
    device = query.device
    axes = [torch.arange(n, device=device) for n in (*query.shape[:3], key.shape[2])]
    index = [axis.view([-1 if n == place else 1 for n in range(4)]) for place, axis in enumerate(axes)]
    added = score_mod(torch.zeros(1, 1, 1, 1, dtype=dtype, device=device), *index)
    allowed = added > -torch.inf
    added = added.masked_fill(~allowed, 0)
    return None if bool(allowed.all()) else allowed, added if added.requires_grad or bool(added.any()) else None


def _refusal(score_mod: Callable[..., Tensor]) -> NotImplementedError:
    name = getattr(score_mod, "__name__", type(score_mod).__name__)
    return NotImplementedError(
        f"flex_attention(score_mod={name}): the weights can be had where score_mod adds a bias, multiplies by one "
        "number, or caps with one tanh; this one does something else"
    )


HANDLERS[HOP] = on_flex
