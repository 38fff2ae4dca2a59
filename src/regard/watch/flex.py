"""flex_attention: run as it would have run, and told of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from regard import masks
from regard.watch.calls import Call, Lazy
from regard.watch.captured import Captured
from regard.watch.errors import UncompiledWarning
from regard.watch.flex_mods import Blocks, named, read, rule
from regard.watch.handlers import cast, stance_found, unsuited
from regard.watch.mode import HANDLERS, Interceptor
from regard.watch.names import caller

__all__ = ["on_flex"]

NAME = "flex_attention"
HOP = torch.ops.higher_order.flex_attention
PUBLIC = torch_flex.flex_attention.__code__


def on_flex(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator under flex_attention: run it as it would have run, and tell of it."""
    output = _in_blocks(args) if _compiled(caller(1)) else None
    in_blocks = output is not None
    if output is None:
        output = func(*args, **kwargs)
    if interceptor.listening:
        interceptor.tell(_call(in_blocks, *args, **kwargs), depth=2)
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
        with stance_found():
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
    in_blocks: bool,  # in front of what the operator was called with
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
    # Compiled code skips blocks whatever mask_mod says, eager code asks mask_mod alone.
    blocks = Blocks(block_mask) if in_blocks else None
    masked = mask_mod is not torch_flex.noop_mask or (blocks is not None and not blocks.everything)
    scored = score_mod is not torch_flex._identity
    reads = {
        f"flex_attention({argument}={named(mod)})": Captured(mod)
        for argument, mod, there in (("mask_mod", mask_mod, masked), ("score_mod", score_mod, scored))
        if there
    }
    tensors = [t for captured in reads.values() for t in captured.tensors]
    if blocks is not None and masked:
        tensors += blocks.tensors

    def check() -> None:
        for name, captured in reads.items():
            captured.check(name)

    def lazily(q: Tensor, k: Tensor) -> Lazy:
        check()
        return read(score_mod, q, k, float(scale)) if scored else Lazy()

    return Call(
        NAME,
        query,
        key,
        mask=masks.where(rule(mask_mod, check, blocks)) if masked else None,
        scale=float(scale),
        cast=cast(query),
        lazily=lazily if reads else None,
        lazy_name=f"score_mod {named(score_mod)}" if scored else "",
        also=tuple(tensors),
        refusal=unsuited(query, key, *tensors),
    )


HANDLERS[HOP] = on_flex
