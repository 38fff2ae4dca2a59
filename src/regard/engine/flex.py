"""Attention by FlexAttention, which PyTorch compiles to one kernel for CUDA.

The keys of each row, as intervals, become the blocks that the kernel visits and the rule that it asks in those that are
read in part; cap, bias and grouped heads are part of the kernel too, log-sum-exp and gradients its own. One path serves
every problem, without a mask as well: compiling takes seconds, once for each kind of problem, and no table of special
cases has to be kept right.

References:
    Dong et al., Flex Attention: A Programming Model for Generating Optimized Attention Kernels, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.engine.merge import with_sinks
from regard.engine.problem import BLOCK_ELEMENTS, KeyIntervals, MaskView, Problem

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

__all__ = ["attend", "block_mask", "gradients", "supported", "unavailable"]

# Rows and keys of a block: what the kernels' own tiles divide.
BLOCK = 128
# Triton multiplies matrices of 16 columns and more; past 256 its tiles outgrow the shared memory of many devices.
NARROWEST, WIDEST = 16, 256
# Kinds of problems that may be compiled in one process: dtypes, widths, scales, numbers of intervals.
MOST_KINDS = 256

# What an index of 32 bits reaches, https://github.com/pytorch/pytorch/issues/145869.
MOST_BIASES = (1 << 31) - 1

# A rule of FlexAttention: index tensors b, h, q, kv of no axes, to an entry.
Entry = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_INTERVALS: WeakKeyDictionary[MaskView, list[KeyIntervals | None]] = WeakKeyDictionary()
_MASKS: WeakKeyDictionary[KeyIntervals, dict[tuple[int, int, int], BlockMask]] = WeakKeyDictionary()


@cache
def unavailable(device: torch.device) -> str | None:
    """Why FlexAttention cannot be compiled for this device; None if it can."""
    if device.type != "cuda":
        return f"FlexAttention is compiled for cuda, and this is {device.type}"
    if find_spec("triton") is None:
        return "FlexAttention needs the package triton, which is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "FlexAttention needs a device of compute capability 7.0 or newer"
    return None


def supported(problem: Problem, v: Tensor) -> str | None:
    """Why FlexAttention cannot run this problem; None if it can."""
    if problem.options.dropout > 0:
        return "FlexAttention has no dropout"
    if v.dtype == torch.float64:
        return "FlexAttention has no float64"
    widths = problem.q.shape[-1], v.shape[-1]
    if max(widths) > WIDEST:
        return f"FlexAttention is used up to a width of {WIDEST}, and this is {max(widths)}"
    if 0 in problem.dims:
        return "FlexAttention has no sizes of 0"
    if problem.bias is not None and problem.bias.requires_grad:
        if torch.are_deterministic_algorithms_enabled():
            return "FlexAttention adds the gradient of a bias up in no fixed order"
        if problem.bias.numel() > MOST_BIASES:
            return f"FlexAttention has gradients of at most {MOST_BIASES:,} biases"
    return _untraceable(problem) if problem.masked and _intervals(problem) is None else None


def attend(problem: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) in v's dtype and lse (B, H, L) in float32, differentiable once in every tensor.

    A row without keys has output 0 and lse -inf (with sinks, the sink's logit) and passes gradients of 0. Keys that
    nobody reads must hold finite numbers.
    """
    width = v.shape[-1]
    q, k, values = (_padded(t) for t in (problem.q, problem.k, v))
    score_mod = _score_mod(problem.options.softcap, problem.bias)
    out, lse = _flex(q, k, values, score_mod, block_mask(problem), problem.options.scale)
    out = out[..., :width]  # (B, H, L, max(Dv, 16)) -> (B, H, L, Dv)
    empty = lse == -torch.inf
    if problem.sinks is None:
        lse = lse.masked_fill(empty, -torch.inf)
    else:
        out, joined = with_sinks(out, lse.masked_fill(empty, 0), problem.sinks)
        lse = torch.where(empty, problem.sinks.to(lse.dtype)[:, None], joined)
    if problem.masked or problem.bias is not None:
        # Whatever the loss says of these constants, nothing of it comes back: hence the same value once more.
        out = out.masked_fill(empty[..., None], 0)
    return out.to(v.dtype), lse


def gradients(
    problem: Problem, v: Tensor, grad: Tensor | None, grad_lse: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, bias and sinks, each only where it is needed, for a caller who kept no graph, as an
    operator does: one more forward pass is the price.
    """
    given = (problem.q, problem.k, v, problem.bias, problem.sinks)
    leaves = [t if t is None else t.detach().requires_grad_(n) for t, n in zip(given, needs, strict=True)]
    q, k, values, bias, sinks = leaves
    assert q is not None
    assert k is not None
    assert values is not None
    with _recording():
        out, lse = attend(Problem(q, k, bias, sinks, problem.options), values)
        through = (torch.zeros_like(t) if g is None else g for t, g in ((out, grad), (lse, grad_lse)))
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad((out, lse), wanted, tuple(through), materialize_grads=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in leaves)


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd, inside of an operator too, where PyTorch has put it aside."""
    c: Any = torch._C
    aside = c._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        aside = aside.remove(getattr(c.DispatchKey, key))
    with c._ForceDispatchKeyGuard(c._dispatch_tls_local_include_set(), aside), torch.enable_grad():
        yield


@torch.inference_mode(False)  # what is remembered from inference may be saved for a backward pass later
def block_mask(problem: Problem, block_size: int = BLOCK) -> BlockMask | None:
    """The mask as FlexAttention's BlockMask, made from its intervals; None without a mask.

    A block is visited if some row reads some key of it, and full if all of ``block_size`` rows read all of
    ``block_size`` keys, exactly: a block that reaches past an end is in part.
    """
    if not problem.masked:
        return None
    intervals = _intervals(problem)
    _, _, query_len, key_len = problem.dims
    sizes = (query_len, key_len)
    if intervals is None:
        return _from_counts(_counted(problem, block_size), _rule(problem), sizes, block_size)
    known = _MASKS.setdefault(intervals, {})
    kind = (query_len, key_len, block_size)
    if kind not in known:
        lo, hi = intervals.lo, intervals.hi
        known[kind] = _from_counts(_covered(lo, hi, *kind), _inside(lo, hi), sizes, block_size)
    return known[kind]


def _from_counts(entries: Tensor, rule: Entry, sizes: tuple[int, int], block_size: int) -> BlockMask:
    """From the number of entries that are read of each block, (B or 1, H or 1, blocks of rows, blocks of keys)."""
    from torch.nn.attention.flex_attention import BlockMask

    full = entries == block_size * block_size
    (some, some_at), (whole, whole_at) = (_listed(chosen) for chosen in ((entries > 0) & ~full, full))
    return BlockMask.from_kv_blocks(some, some_at, whole, whole_at, block_size, rule, sizes)


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each line are chosen, and which, first and in order; then the others."""
    order = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _covered(lo: Tensor, hi: Tensor, query_len: int, key_len: int, size: int) -> Tensor:
    """The entries of each block of ``size`` x ``size``, (B or 1, H or 1, rows / size, keys / size), that lie in
    intervals ``lo <= j < hi``, (B or 1, H or 1, L or 1, n), disjoint: integers, exact, in O(L n) memory.
    """
    b, h, _, n = lo.shape
    rows, keys = -(-query_len // size), -(-key_len // size)
    # Before the key x lie `size` keys of each block before its own, x % size of its own and none of the blocks after.
    # So an end of an interval is a remainder in one block, and a step there of a running sum of whole blocks.
    steps, rest = (torch.zeros(b * h * rows, keys + 1, dtype=torch.int32, device=lo.device) for _ in range(2))
    row = torch.arange(query_len, device=lo.device)[:, None] // size  # (L, 1)
    line = torch.arange(b * h, device=lo.device).view(b, h, 1, 1) * rows + row  # (B or 1, H or 1, L, 1)
    for end, sign in ((torch.maximum(lo, hi), 1), (lo, -1)):
        end = end.expand(b, h, query_len, n)
        place = (line * (keys + 1) + end // size).flatten()
        steps.view(-1).index_add_(0, place, torch.full_like(place, sign, dtype=torch.int32))
        rest.view(-1).index_add_(0, place, (end % size * sign).flatten().to(torch.int32))
    entries = rest - size * steps.cumsum(-1, dtype=torch.int32)
    return entries.view(b, h, rows, keys + 1)[..., :keys]


def _counted(problem: Problem, size: int) -> Tensor:
    """The same of a mask that is no few intervals, from looking at its blocks one after the other."""
    b, h, query_len, key_len = problem.dims
    step = max(1, BLOCK_ELEMENTS // (b * h * size * size)) * size
    lines = []
    for start in range(0, query_len, size):
        rows = slice(start, min(start + size, query_len))
        parts = [_count(problem, rows, slice(c, min(c + step, key_len)), size) for c in range(0, key_len, step)]
        lines.append(_joined(parts, -1))  # (B or 1, H or 1, 1, keys / size)
    return _joined(lines, 2)


def _count(problem: Problem, rows: slice, keys: slice, size: int) -> Tensor:
    """The entries of blocks side by side, (B or 1, H or 1, 1, keys / size)."""
    allowed = problem.allowed(rows, keys)
    if allowed is None:
        allowed = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=problem.q.device)
    per_key = allowed.expand(-1, -1, rows.stop - rows.start, keys.stop - keys.start).sum(2, dtype=torch.int32)
    per_key = F.pad(per_key, (0, -per_key.shape[-1] % size))  # (B or 1, H or 1, keys, rounded up)
    return per_key.view(*per_key.shape[:2], 1, -1, size).sum(-1, dtype=torch.int32)


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    """Parts side by side, whose first two axes may be 1 for broadcasting."""
    b, h = (max(t.shape[i] for t in parts) for i in range(2))
    return torch.cat([t.expand(b, h, -1, -1) for t in parts], axis)


def _intervals(problem: Problem) -> KeyIntervals | None:
    """The intervals of a mask, found once for as long as it is looked at."""
    view = problem.options.view
    if view is None:
        return None
    known = _INTERVALS.setdefault(view, [])
    if not known:
        known.append(view.intervals())
    return known[0]


def _rule(problem: Problem) -> Entry:
    """A mask's own rule, for one that is no few intervals."""
    view, bare = problem.options.view, problem.detach()

    # A function, not a method: PyTorch tells a rule from what modifies a score by the number of arguments.
    def rule(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        allowed = bare.allowed_at(b, h, q, kv) if view is None else view.at(b, h, q, kv)
        assert allowed is not None
        return allowed

    return rule


def _untraceable(problem: Problem) -> str | None:
    """Why a rule cannot be part of a kernel: it asks what an index is."""
    from torch.nn.attention.flex_attention import create_mask

    try:
        create_mask(_rule(problem), 1, 1, 1, 1, device=problem.q.device)
    except Exception as error:
        return f"the mask has a rule that FlexAttention cannot trace ({type(error).__name__})"
    return None


def _inside(lo: Tensor, hi: Tensor) -> Entry:
    """The rule of intervals (B or 1, H or 1, L or 1, n)."""
    pieces = [
        tuple(_entries(t[..., n : n + 1].to(torch.int32, memory_format=torch.contiguous_format)) for t in (lo, hi))
        for n in range(lo.shape[-1])
    ]

    def rule(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        inside = kv < 0
        for low, high in pieces:
            inside = inside | ((kv >= low(b, h, q, kv)) & (kv < high(b, h, q, kv)))
        return inside

    return rule


def _score_mod(softcap: float | None, bias: Tensor | None) -> Callable[..., Tensor] | None:
    if softcap is None and bias is None:
        return None
    added = None if bias is None else _entries(bias)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        return score if added is None else score + added(b, h, q, kv)

    return score_mod


def _entries(t: Tensor) -> Entry:
    """Single entries of a tensor whose axes of 1 stand for any index: indexed once, as a gradient of it needs."""
    used = tuple(n > 1 for n in t.shape)
    flat = t.reshape([n for n in t.shape if n > 1] or [1])
    if t.requires_grad:
        flat = flat.clone()  # torch 2.13 drops the gradient of a view that a rule holds, without a word
    if not any(used):
        return lambda b, h, q, kv: flat[torch.zeros_like(q)]

    def entry(*index: Tensor) -> Tensor:
        return flat[tuple(i for i, u in zip(index, used) if u)]  # noqa: B905  a kernel's compiler knows no strict

    return entry


def _padded(t: Tensor) -> Tensor:
    """At least 16 columns, of zeros, which add nothing to any product; each row in memory of its own."""
    if t.shape[-1] < NARROWEST:
        return F.pad(t, (0, NARROWEST - t.shape[-1]))
    return t.contiguous() if 0 in t.stride() else t


def _flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Callable[..., Tensor] | None,
    mask: BlockMask | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    from torch.nn.attention.flex_attention import AuxRequest

    grouped = q.shape[1] != k.shape[1]
    # Numbers such as the scale are part of a kernel. Past the limit, fullgraph=True makes PyTorch raise an error, where
    # it would else run the uncompiled form, in L x S memory.
    with torch._dynamo.config.patch(specialize_float=True, recompile_limit=MOST_KINDS):
        out, aux = _kernel()(q, k, v, score_mod, mask, scale, grouped, return_aux=AuxRequest(lse=True))
    return out, aux.lse


@cache
def _kernel() -> Callable[..., Any]:
    """FlexAttention, compiled; tests put the uncompiled one in its place."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True)
    return compiled
