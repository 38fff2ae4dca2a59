"""A mask as words, numbers and tensors, and back: what an operator can be given that takes no objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from regard import validation
from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.rules import Band, Causal, Dense, Documents, Padding, Prefix

__all__ = ["Code", "decode", "encode"]


class Code(NamedTuple):
    """A mask in Polish notation: ``words`` names the rules in order; each takes its numbers and tensors in turn."""

    words: str
    numbers: list[int]
    tensors: list[Tensor]


def encode(mask: Mask | None, sizes: Sizes) -> Code:
    """The code of a mask; no mask has no words.

    >>> import torch
    >>> from regard import masks
    >>> encode(masks.prefix(2) | ~masks.causal(), Sizes((1,), 1, 3, 3))
    Code(words='or prefix not causal', numbers=[2], tensors=[])

    A rule that is none of regard's own, as that of ``masks.where()``, becomes a dense mask: a tensor of booleans of as
    many axes of ``sizes`` as the rule depends on, L x S at least.
    """
    words: list[str] = []
    code = Code("", [], [])
    if mask is not None:
        _write(mask, sizes, words, code)
    return code._replace(words=" ".join(words))


def decode(words: str, numbers: Sequence[int], tensors: Sequence[Tensor]) -> Mask | None:
    """The mask of a code."""
    return _read(iter(words.split()), iter(numbers), iter(tensors)) if words else None


def _write(mask: Mask, sizes: Sizes, words: list[str], code: Code) -> None:
    # The exact class: a subclass may have another rule.
    kind = type(mask)
    if kind is And or kind is Or:
        assert isinstance(mask, And | Or)
        words.append("and" if kind is And else "or")
        _write(mask.left, sizes, words, code)
        _write(mask.right, sizes, words, code)
    elif kind is Not:
        assert isinstance(mask, Not)
        words.append("not")
        _write(mask.inner, sizes, words, code)
    else:
        words.append(_write_rule(mask, sizes, code))


def _write_rule(mask: Mask, sizes: Sizes, code: Code) -> str:
    """The word of a mask that is made of no others; its numbers and tensors go to the code."""
    kind = type(mask)
    if kind is Causal:
        assert isinstance(mask, Causal)
        if mask.offset is None:
            return "causal"
        code.numbers.append(mask.offset)
        return "offset"
    if kind is Band:
        assert isinstance(mask, Band)
        code.numbers.extend((mask.left, mask.right))
        return mask.name
    if kind is Prefix:
        assert isinstance(mask, Prefix)
        code.numbers.append(mask.length)
        return "prefix"
    if kind is Padding:
        assert isinstance(mask, Padding)
        code.tensors.extend(mask.tensors())
        return "valid" if mask.lengths is None else "lengths"
    if kind is Documents:
        code.tensors.extend(mask.tensors())
        return "documents"
    code.tensors.extend(mask.tensors() if kind is Dense else (_evaluated(mask, sizes),))
    return "dense"


def _evaluated(mask: Mask, sizes: Sizes) -> Tensor:
    """All of a mask as booleans, with axes that broadcast to (..., H, L, S), or (N, L, S) without heads.

    Sizes may be symbols here, which Mask.block() would turn into numbers.
    """
    lengths = (prod(sizes.batch_shape), sizes.heads, sizes.query_len, sizes.key_len)
    b, h, q, kv = (torch.arange(n, device=sizes.device) for n in lengths)
    b, h, q, kv = b.view(-1, 1, 1, 1), h.view(1, -1, 1, 1), q.view(1, 1, -1, 1), kv.view(1, 1, 1, -1)
    out = mask.bind(sizes).allowed(b, h, q, kv, sizes)  # broadcasts to (B, H, L, S)
    if not isinstance(out, Tensor) or out.dtype != torch.bool:
        validation.check_mask_result(out, lengths)  # says what came
    if out.dim() < 4:
        return out
    out = out.squeeze(1) if sizes.headless else out
    return out[0] if out.shape[0] == 1 else out.reshape(*sizes.batch_shape, *out.shape[1:])


def _read(words: Iterator[str], numbers: Iterator[int], tensors: Iterator[Tensor]) -> Mask:
    word = next(words)
    if word in ("and", "or"):
        one, other = _read(words, numbers, tensors), _read(words, numbers, tensors)
        return And(one, other) if word == "and" else Or(one, other)
    if word == "not":
        return Not(_read(words, numbers, tensors))
    if word == "causal":
        return Causal(None)
    if word == "offset":
        return Causal(next(numbers))
    if word in ("window", "band"):
        left, right = next(numbers), next(numbers)
        return Band(left, right, word)
    if word == "prefix":
        return Prefix(next(numbers))
    if word in ("lengths", "valid"):
        given = next(tensors)
        validation.check_padding_kind(given)  # a mask made while a graph is traced has no numbers to check yet
        return Padding(given, None) if word == "lengths" else Padding(None, given)
    if word == "documents":
        return Documents(next(tensors))
    if word == "dense":
        return Dense(next(tensors))
    raise ValueError(f"mask code: words must be those of encode(), got {word!r}")
