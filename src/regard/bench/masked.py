"""Attention under a mask beside what torch offers for it: causal attention over all pairs, or a dense boolean mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.bench import exact
from regard.bench.case import Bar, Case, Duel
from regard.bench.compare import ULPS, close_to
from regard.bench.rules import Rule, documents, prefix, random_lengths, window
from regard.bench.timing import Subject
from regard.masks import Mask

__all__ = ["CASES", "masked_duel", "padding_duel"]

Peer = Literal["causal", "mask", "peak"]
#: Attention of (1, H, L, D) tensors under regard's mask; what torch does instead of reading it, it knows.
Attend = Callable[[Tensor, Tensor, Tensor, Mask], Tensor]
NAMES = ("output", "gradient of query", "gradient of key", "gradient of value")


def masked_duel(
    rule: Rule, query_len: int, peer: Peer, *, backward: bool = False, num_heads: int = 8, width: int = 64
) -> Duel:
    """Attention under a mask over (1, num_heads, query_len, width) in float32.

    Args:
        rule: the mask.
        query_len: L, and S.
        peer: "causal", torch's causal attention, which reads all earlier keys; "mask", the rule as a dense boolean
            mask; or "peak", one matrix product with as many operations as the allowed pairs need.
        backward: with the gradients of q, k and v.
        num_heads: H.
        width: D.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, 1, num_heads, query_len, width, generator=generator).unbind()

    if peer == "peak":
        against = _product(_pairs(rule, query_len) * 4 * width * num_heads)
        return Duel(
            Subject("regard.attention", lambda mask: _ours(q, k, v, mask), rule.mask),
            against,
            lambda: _check(rule, {"regard.attention": _ours}, q, k, v),
        )
    dense = _dense(rule, query_len) if peer == "mask" else None

    def torchs(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dense, is_causal=dense is None)

    name = "SDPA, is_causal" if dense is None else "SDPA, dense mask"
    # Causal attention over all pairs is another problem than the rule's: its result is not compared.
    compared: dict[str, Attend] = {"regard.attention": _ours, **({name: torchs} if dense is not None else {})}
    if backward:
        return _training_duel(rule, name, torchs, compared, q, k, v, grad)
    return Duel(
        Subject("regard.attention", lambda mask: _ours(q, k, v, mask), rule.mask),
        Subject(name, lambda mask: torchs(q, k, v, mask), rule.mask),
        lambda: _check(rule, compared, q, k, v),
    )


def _training_duel(
    rule: Rule, name: str, torchs: Attend, compared: dict[str, Attend], q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> Duel:
    def leaves() -> tuple[Tensor, Tensor, Tensor]:
        return q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_()

    return Duel(
        Subject("regard.attention", lambda given: _ours(*given).backward(grad), lambda: (*leaves(), rule.mask())),
        Subject(name, lambda given: torchs(*given).backward(grad), lambda: (*leaves(), rule.mask())),
        lambda: _check_gradients(rule, compared, leaves(), grad),
    )


def _ours(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    return regard.attention(q, k, v, mask)[0]


def padding_duel(batch: int = 8, query_len: int = 2048, *, num_heads: int = 8, width: int = 64) -> Duel:
    """Sequences of a quarter of query_len to all of it, beside torch with the same mask as (B, 1, 1, S) booleans."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, batch, num_heads, query_len, width, generator=generator).unbind()
    lengths = torch.linspace(query_len // 4, query_len, batch).round().long()
    # torch takes this broadcast form as it is, and is faster with it than with (B, 1, L, S).
    dense = (torch.arange(query_len) < lengths[:, None])[:, None, None]  # (B, S) -> (B, 1, 1, S)

    def ours(mask: Mask) -> Tensor:
        return regard.attention(q, k, v, mask)[0]

    def torchs(_: object) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dense)

    def check() -> str:
        results = {"regard.attention": ours(regard.masks.padding(lengths)), "SDPA, dense mask": torchs(None)}
        worst = 0.0
        for b, length in enumerate(lengths.tolist()):
            for block in exact.blocks(q[b], k[b], v[b], _front(length), starts=exact.sampled_starts(query_len)):
                worst = max(worst, _farthest({name: out[b] for name, out in results.items()}, block))
        return f"three blocks of rows of each head and sequence against float64: within {worst:.1e}"

    return Duel(
        Subject("regard.attention", ours, lambda: regard.masks.padding(lengths)),
        Subject("SDPA, dense mask", torchs),
        check,
    )


def _product(operations: float, side: int = 2048) -> Subject:
    """One float32 matrix product of this many operations."""
    generator = torch.Generator().manual_seed(0)
    across = max(1, round(operations / (2 * side * side)))
    a, b = torch.randn(side, side, generator=generator), torch.randn(side, across, generator=generator)
    out = torch.empty(side, across)
    return Subject("a matrix product of the same operations", lambda _: torch.mm(a, b, out=out))


def _row_blocks(rule: Rule, query_len: int) -> list[Tensor]:
    rows = torch.arange(query_len)[:, None].split(exact.SIZE)
    return [rule.allowed(some, torch.arange(query_len)) for some in rows]


def _dense(rule: Rule, query_len: int) -> Tensor:
    return torch.cat(_row_blocks(rule, query_len))[None, None]  # (1, 1, L, S)


def _pairs(rule: Rule, query_len: int) -> int:
    return sum(int(block.sum()) for block in _row_blocks(rule, query_len))


def _front(length: int) -> exact.Allowed:
    return lambda q, kv: kv < length


def _farthest(results: dict[str, Tensor], block: exact.Block) -> float:
    """How far outputs (H, L, Dv) are from the definition: each row is held relative to its largest element."""
    return max(
        close_to(f"output of {name}, rows from {block.rows.start}", out[:, block.rows], block.output, ulps=ULPS)
        for name, out in results.items()
    )


def _check(rule: Rule, compared: dict[str, Attend], q: Tensor, k: Tensor, v: Tensor) -> str:
    """Outputs (1, H, L, Dv) against the definition."""
    starts = None if rule.everywhere else exact.sampled_starts(q.shape[2])
    results = {name: attend(q, k, v, rule.mask())[0] for name, attend in compared.items()}  # (H, L, Dv) each
    found = [_farthest(results, block) for block in exact.blocks(q[0], k[0], v[0], rule.allowed, starts=starts)]
    which = "every row" if rule.everywhere else "three blocks of rows"
    return f"{which} of each head against float64: within {max(found):.1e}"


def _check_gradients(
    rule: Rule, compared: dict[str, Attend], leaves: tuple[Tensor, Tensor, Tensor], grad: Tensor
) -> str:
    """Output and gradients against the definition: relative to the largest element of the head.

    A row that reads one key has a gradient of zero, of which rounding leaves something that is not small beside it.
    """
    q, k, v = (x.detach()[0] for x in leaves)  # (1, H, L, D) -> (H, L, D)
    truth = exact.gradients(q, k, v, grad[0], rule.allowed)
    worst = 0.0
    for name, attend in compared.items():
        output = attend(*leaves, rule.mask())
        found = (output.detach(), *torch.autograd.grad(output, leaves, grad))
        pairs = zip(NAMES, found, (truth.output, truth.query, truth.key, truth.value), strict=True)
        for what, got, true in pairs:
            error = close_to(f"{what} of {name}", got[0].flatten(1), true.flatten(1), ulps=ULPS)
            worst = max(worst, error)
    return f"output and gradients of every row against float64: within {worst:.1e}"


def _case(
    name: str, group: str, what: str, rule: Callable[[], Rule], query_len: int, peer: Peer, at_least: float
) -> Case:
    backward = name.endswith("-training")
    words = {
        "causal": "beside SDPA is_causal",
        "mask": "beside SDPA with a dense mask",
        "peak": "beside one matrix product of as many operations",
    }
    return Case(
        name,
        group,
        f"{what}, L {query_len}, {'forward and backward' if backward else 'forward'}, {words[peer]}",
        lambda: masked_duel(rule(), query_len, peer, backward=backward),
        (Bar("speedup", at_least=at_least),),
    )


_FEW, _WIDE = partial(window, 256), partial(window, 512)
_EVEN, _RAGGED = (lambda: documents(torch.full((16,), 512))), (lambda: documents(random_lengths()))

CASES = (
    _case("window", "windows", "window(512)", _WIDE, 16384, "causal", 7),
    _case("dense-mask", "windows", "window(512)", _WIDE, 16384, "mask", 20),
    _case("window-training", "windows", "window(512)", _WIDE, 16384, "causal", 6),
    _case("dense-mask-training", "windows", "window(512)", _WIDE, 16384, "mask", 15),
    _case("window-peak", "windows", "window(256)", _FEW, 8192, "peak", 0.5),
    _case("documents", "masks", "16 causal documents of 512", _EVEN, 8192, "causal", 10),
    _case("documents-training", "masks", "16 causal documents of 512", _EVEN, 8192, "causal", 10),
    _case("ragged", "masks", "16 causal documents of 256 to 768", _RAGGED, 8192, "causal", 10),
    _case("ragged-training", "masks", "16 causal documents of 256 to 768", _RAGGED, 8192, "causal", 10),
    _case("prefix", "masks", "prefix(1024) | causal()", partial(prefix, 1024), 8192, "mask", 1.7),
    Case(
        "padding",
        "masks",
        "padding to 25..100% of L 2048, B 8, forward, beside SDPA with a dense mask",
        padding_duel,
        (Bar("speedup", at_least=1.4),),
    ),
)
