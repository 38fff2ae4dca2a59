"""Masks as values that compose: ``causal() & window(512) & documents(ids)``.

A mask says which keys a query may read; True = may attend, everywhere. It is never stored as an L x S matrix: it is a
rule that can be asked for any block of itself, and :mod:`regard.engine` turns the rule into work that is done and work
that is not. Positions: query i of L stands at position S - L + i of the S keys, so that the last query sees the last
key.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regard import validation
from regard.masks.algebra import Mask, Sizes
from regard.masks.rules import Band, Causal, Dense, Documents, Padding, Prefix, Where

__all__ = ["Mask", "Sizes", "band", "causal", "dense", "documents", "padding", "prefix", "where", "window"]


def causal(offset: int | None = None) -> Mask:
    """Query i reads key j if ``j <= i + offset``; with ``offset=None`` it is S - L, so that the last query sees every
    key.

    >>> from regard import masks
    >>> print(masks.causal().picture(3, 5))
    ■■■··
    ■■■■·
    ■■■■■

    Args:
        offset: the position of query 0 among the keys. ``offset=0`` is the top-left alignment of
            ``F.scaled_dot_product_attention(is_causal=True)``.
    """
    return Causal(validation.check_offset(offset))


def window(n: int) -> Mask:
    """The n latest keys up to the query's own position, its own included: ``p - n < j <= p`` with ``p = S - L + i``.

    Causal by itself; :func:`band` looks both ways.

    >>> from regard import masks
    >>> print(masks.window(2).picture(4))
    ■···
    ■■··
    ·■■·
    ··■■

    Args:
        n: how many keys a query sees, at least 1.
    """
    return Band(validation.check_count(n, "window", 1) - 1, 0, "window")


def band(left: int, right: int) -> Mask:
    """``left`` keys before the query's own position, its own, and ``right`` after: ``p - left <= j <= p + right``.

    >>> from regard import masks
    >>> print(masks.band(1, 1).picture(4))
    ■■··
    ■■■·
    ·■■■
    ··■■
    """
    left, right = validation.check_count(left, "band left", 0), validation.check_count(right, "band right", 0)
    return Band(left, right, "band")


def padding(given: Tensor) -> Mask:
    """Keys that hold something: integer ``lengths`` (B,) of what is at the front, or boolean ``valid`` (B, S) or (S,).

    >>> from regard import masks
    >>> masks.padding(torch.tensor([1, 3])).to_dense(1, 3)[:, 0, 0]
    tensor([[ True, False, False],
            [ True,  True,  True]])

    Args:
        given: integers count the keys at the front of each sequence; booleans say key by key, True = may be read.
    """
    validation.check_padding_kind(given)
    return Padding(None, given) if given.dtype == torch.bool else Padding(given, None)


def documents(ids: Tensor) -> Mask:
    """Query and key belong to the same document: ``ids[p] == ids[j]`` with ``p = S - L + i``.

    >>> from regard import masks
    >>> print(masks.documents(torch.tensor([0, 0, 1])).picture(3))
    ■■·
    ■■·
    ··■

    Args:
        ids: integers, (S,) or (B, S): the document of each key position.
    """
    validation.check_document_ids(ids)
    return Documents(ids)


def prefix(n: int) -> Mask:
    """The first n keys: ``j < n``. A prefix that all may read, before causal text, is ``prefix(n) | causal()``.

    >>> from regard import masks
    >>> print((masks.prefix(2) | masks.causal()).picture(4))
    ■■··
    ■■··
    ■■■·
    ■■■■
    """
    return Prefix(validation.check_count(n, "prefix", 0))


def where(rule: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Mask:
    """A mask given by a function ``rule(b, h, q, kv)``, with the signature of FlexAttention's mask_mod.

    q is the row 0 .. L-1, not the position S - L + q that the other masks go by. The index tensors broadcast.

    >>> from regard import masks
    >>> print(masks.where(lambda b, h, q, kv: (q - kv) % 2 == 0).picture(3))
    ■·■
    ·■·
    ■·■

    Args:
        rule: called with integer tensors b (batch, counted over all leading axes), h (head), q (0 .. L-1) and kv (0 ..
            S-1).
    """
    if not callable(rule):
        raise TypeError(f"where(): rule must be a function of (b, h, q, kv), got {type(rule).__name__}")
    return Where(rule)


def dense(tensor: Tensor) -> Mask:
    """A boolean tensor as a mask; it broadcasts to (..., H, L, S), True = may attend.

    >>> from regard import masks
    >>> print(masks.dense(torch.eye(3, dtype=torch.bool)).picture(3))
    ■··
    ·■·
    ··■
    """
    validation.check_boolean_mask(tensor)
    return Dense(tensor)
