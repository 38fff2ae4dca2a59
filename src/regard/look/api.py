"""look(): a page of anybody's attention weights; encoding() and mask(): pages of the same make."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regard.look.arguments import check_batch, check_given, check_places, check_words
from regard.look.collect import page_data
from regard.look.files import check_target
from regard.look.measure import measure
from regard.look.opened import Page
from regard.look.plain import encoding_data, mask_data
from regard.look.recorded import tabs
from regard.look.spoilt import not_numbers

if TYPE_CHECKING:
    from regard import PositionalEncoding
    from regard.look.data import PageData
    from regard.look.measure import Measured
    from regard.masks import Mask

__all__ = ["encoding", "look", "mask", "page", "page_of"]

Progress = Callable[[int, int], None]


def look(
    weights: Any,
    tokens: Any = None,
    *,
    query_tokens: Any = None,
    mask: Mask | Tensor | None = None,
    token_ids: Tensor | Sequence[int] | None = None,
    title: str = "attention",
    source: str = "",
    notes: Sequence[str] = (),
    queries: Iterable[int] = (),
    windows: Iterable[tuple[int | slice, int | slice]] = (),
    max_bytes: int | None = None,
    batch: int = 0,
    progress: Progress | None = None,
) -> Page:
    """A page that shows all heads of all layers: as HTML, in a notebook, in a browser, or live.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 4, 8)  # B 1, H 2, L 4, D 8
    >>> _, weights = regard.attention(q, k, v, regard.masks.causal())
    >>> regard.look([weights, weights], ["to", "be", "or", "not"])  # doctest: +ELLIPSIS
    Page(2 layers, 4 heads, 4 x 4; ... of it data)

    Anybody's dense weights: one tensor a layer, as a Hugging Face model returns them and BertViz takes them, or a head
    x query x key tensor, as CircuitsVis takes it.

    >>> attentions = tuple(torch.rand(1, 2, 4, 4).softmax(-1) for _ in range(3))
    >>> regard.look(attentions, tokens=["to", "be", "or", "not"])  # doctest: +ELLIPSIS
    Page(3 layers, 6 heads, 4 x 4; ... of it data)

    Args:
        weights: :class:`regard.AttentionWeights`, or a tensor or array (B, H, L, S), (H, L, S) or (L, S); a sequence of
            those, one a layer; what ``regard.watch`` gave; what a Hugging Face model returned; or a mapping of names to
            any of these, each a tab.
        tokens: S texts, or a mapping of the tabs' names to those; None numbers the positions.
        query_tokens: L texts, where the queries are other tokens than the keys; or a mapping likewise.
        mask: what dense weights were masked with, a :class:`regard.masks.Mask` or booleans that broadcast to (..., H,
            L, S), True = may attend; what it forbids is hatched. AttentionWeights know theirs.
        token_ids: (S,) integers that say which tokens are the same; without them their text does.
        title: what the page is called.
        source: where the text came from.
        notes: what the reader must know, such as a text cut short.
        queries: queries whose strongest keys the page keeps exactly, besides those that it chooses. Queries, keys and
            sequences are counted from 0; none is counted from the end.
        windows: where the page keeps every weight, besides the windows that it chooses: (query, key) in the middle of
            one, or (slice, slice) of at most 64 each.
        max_bytes: the most that the data may take: what the page shows gets coarser until they fit, and it says so.
            None is 4,900,000 bytes, and 2,000,000 in a notebook.
        batch: which sequence of a batch.
        progress: called with (layers done, layers in all).

    Returns:
        A :class:`regard.look.Page`.

    Raises:
        TypeError: weights that are none of these.
        ValueError: no weights, or nothing but NaN; tokens that are not one a key; a sequence, query or window that is
            not there; too few bytes. The message names what.
        RuntimeError: weights that cannot be computed any more: their query or key was written to.
        ImportError: numpy is not installed.
    """
    check_words(title=title, source=source, notes=notes, max_bytes=max_bytes)
    check_batch(batch)
    queries, windows = check_places(queries, windows)
    check_given(weights)
    given, said = _groups(weights)
    measured = measure(
        given,
        tokens=tokens,
        query_tokens=query_tokens,
        token_ids=token_ids,
        mask=mask,
        queries=queries,
        windows=windows,
        batch=batch,
        progress=progress,
    )
    return page_of(measured, title=title, source=source, notes=[*notes, *said], max_bytes=max_bytes)


def page_of(
    measured: Measured,
    *,
    title: str = "attention",
    source: str = "",
    notes: Sequence[str] = (),
    selected: tuple[int, int] | None = None,
    max_bytes: int | None = None,
) -> Page:
    """The page of what was measured.

    Args:
        measured: what :func:`regard.look.measure` gave.
        title: what the page is called.
        source: where the text came from.
        notes: what the reader must know.
        selected: (layer, head) to show first; without it the most telling one.
        max_bytes: as :func:`look` takes it.

    Returns:
        A :class:`regard.look.Page`.

    Raises:
        ValueError: the bytes are too few.
    """
    said = (*notes, *not_numbers(measured), *_untold(measured), *_batch_note(measured))

    def build(most: int) -> PageData:
        return page_data(measured, title=title, source=source, notes=said, selected=selected, max_bytes=most)

    layers = [group.layers for group in measured.groups]
    return Page(build, max_bytes=max_bytes, layers=layers, batch=measured.batch)


def page(weights: Any, tokens: Any, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write a page that shows all heads of all layers, as one file for any browser: ``look(...).save(path)``.

    Example:
        >>> import tempfile, torch
        >>> from regard import attention, look, masks
        >>> q, k, v = torch.randn(3, 1, 2, 4, 8)  # B 1, H 2, L 4, D 8
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     look.page([weights], ["to", "be", "or", "not"], folder + "/page.html").name
        'page.html'

    Args:
        weights: as :func:`look` takes them.
        tokens: likewise.
        path: where to write, whole or not at all.
        **options: what else :func:`look` takes.

    Returns:
        The path written.

    Raises:
        ValueError: path cannot be written, which is said before anything is computed; otherwise as :func:`look` does.
    """
    check_target(path)
    return look(weights, tokens, **options).save(path)


def encoding(
    encoding: Tensor | PositionalEncoding,
    *,
    title: str = "positional encoding",
    source: str = "",
    notes: Sequence[str] = (),
    max_bytes: int | None = None,
) -> Page:
    """A page that shows a positional encoding, position by dimension.

    >>> import regard
    >>> regard.look.encoding(regard.PositionalEncoding(d_model=32, max_len=64))  # doctest: +ELLIPSIS
    Page(encoding, 64 positions x 32 dimensions; ... of it data)

    Args:
        encoding: (positions, dimensions), a tensor or an array, or a module that has such a table.
        title: what the page is called.
        source: where it came from.
        notes: what the reader must know.
        max_bytes: the most that the data may take: a longer encoding is sampled.

    Returns:
        A :class:`regard.look.Page`.

    Raises:
        TypeError: encoding is no tensor of numbers.
        ValueError: encoding has other than two dimensions, nothing in it, or numbers that are not finite; or max_bytes
            is too few.
    """
    check_words(title=title, source=source, notes=notes, max_bytes=max_bytes)
    given: Any = encoding
    values = given.get_encoding() if hasattr(given, "get_encoding") else given

    def build(most: int) -> PageData:
        return encoding_data(values, title=title, source=source, notes=notes, max_bytes=most)

    return Page(build, max_bytes=max_bytes)


def mask(
    mask: Mask | Tensor,
    query_len: int | None = None,
    key_len: int | None = None,
    *,
    batch: int | None = None,
    num_heads: int | None = None,
    title: str = "mask",
    source: str = "",
    notes: Sequence[str] = (),
    max_bytes: int | None = None,
) -> Page:
    """A page that shows which keys each query may read.

    >>> import regard
    >>> regard.look.mask(regard.masks.causal() & regard.masks.window(64), 1000)  # doctest: +ELLIPSIS
    Page(mask, 1,000 x 1,000; ... of it data)

    Args:
        mask: a :class:`regard.masks.Mask`, or booleans (..., L, S), True = may attend.
        query_len: L; that of the booleans if None.
        key_len: S; L if None.
        batch: how many sequences, for a mask that differs by them.
        num_heads: how many heads, likewise.
        title: what the page is called.
        source: where it came from.
        notes: what the reader must know.
        max_bytes: the most that the data may take.

    Returns:
        A :class:`regard.look.Page`.

    Raises:
        TypeError: mask is neither.
        ValueError: a mask comes without query_len, the sizes are not those of the mask, or max_bytes is too few.
    """
    check_words(title=title, source=source, notes=notes, max_bytes=max_bytes)
    sizes = {"batch": batch, "num_heads": num_heads}

    def build(most: int) -> PageData:
        return mask_data(mask, query_len, key_len, **sizes, title=title, source=source, notes=notes, max_bytes=most)

    return Page(build, max_bytes=max_bytes)


def _groups(weights: Any) -> tuple[Any, list[str]]:
    """The weights as a list of layers or tabs of them, and what is to be said of how they came to be."""
    from regard.watch import Record, Seen

    if isinstance(weights, Seen):
        return tabs(weights)
    if isinstance(weights, Record):
        return [weights], []
    if not isinstance(weights, Mapping) or not any(isinstance(value, Seen) for value in weights.values()):
        return weights, []
    unfolded: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in weights.items():
        if not isinstance(value, Seen):
            unfolded[name] = value
            continue
        inside, said = tabs(value)
        unfolded |= {f"{name}, {tab}" if tab else name: layers for tab, layers in inside.items()}
        notes += [f"{name}: {sentence}" for sentence in said]
    return unfolded, notes


def _untold(measured: Measured) -> list[str]:
    """Which groups have none of the tokens that were given."""
    return [
        f"{group.name}: no tokens of {group.key_len:,} keys were given, so that they are numbered"
        for group in measured.groups
        if group.shown.untold
    ]


def _batch_note(measured: Measured) -> list[str]:
    """Which sequence is shown, where there are several."""
    count = measured.sequences
    return [f"sequence {measured.batch} of {count}, counted from 0"] if count > 1 else []
