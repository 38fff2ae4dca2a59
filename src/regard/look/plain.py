"""The data of the pages that show no weights: a positional encoding, and a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.look.checks import encoding_table, mask_of, whole
from regard.look.collect import MAX_BYTES, frame
from regard.look.data import PageData
from regard.look.encode import floats, linear_codes, longs, octets, packed, words
from regard.masks import Mask, dense

#: The sides of a map that are tried, until the data fit.
SIDES = (512, 256, 128, 64, 32)

#: The most maps of one mask: sequences and heads beyond them are not shown.
MOST_MAPS = 64


def encoding_data(
    encoding: Any,
    *,
    title: str = "positional encoding",
    source: str = "",
    notes: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> PageData:
    """The page of a positional encoding, (L, D): the values themselves, sampled where there are more than 512 x 512.

    Example:
        >>> import torch
        >>> from regard.look.plain import encoding_data
        >>> data = encoding_data(torch.tensor([[0.0, 1.0], [0.5, -1.0]]))
        >>> data.encoding["length"], data.encoding["lowest"], data.encoding["highest"]
        (2, -1.0, 1.0)

    Args:
        encoding: (L, D), (1, L, D) or (L, 1, D), a tensor or an array; or a module that holds one such table.
        title: what the page is called.
        source: where it came from.
        notes: what the reader must know.
        max_bytes: the most that the JSON may take; fewer positions and dimensions are kept until it fits.

    Returns:
        The data.

    Raises:
        TypeError: if it is not a tensor or an array of numbers, nor a module that holds one.
        ValueError: if it has another shape, holds NaN or infinities, or does not fit max_bytes.
    """
    values = encoding_table(encoding)
    page = frame("encoding", title=title, source=source, notes=notes)
    return _fitting(lambda side: _encoding_page(page, values, side), max_bytes, "the smallest map of the encoding")


def _encoding_page(page: PageData, values: Tensor, side: int) -> PageData:
    length, dims = values.shape
    rows = min(side, length)
    positions = torch.arange(rows) * length // rows  # (R,)
    dimensions = _kept_dimensions(dims, side)  # (C,)
    kept = values[positions][:, dimensions]  # (R, C)
    lowest, highest = float(values.min()), float(values.max())
    reduced = []
    if rows < length:
        reduced.append(f"{rows:,} of {length:,} positions are kept, evenly spread; none is averaged.")
    if len(dimensions) < dims:
        reduced.append(f"{len(dimensions):,} of {dims:,} dimensions are kept, as pairs of neighbours, evenly spread.")
    found = {
        "length": length,
        "dims": dims,
        "rows": rows,
        "cols": len(dimensions),
        "lowest": lowest,
        "highest": highest,
        "positions": packed(longs(positions)),
        "dimensions": packed(longs(dimensions)),
        "codes": packed(words(linear_codes(kept - lowest, highest - lowest))),
    }
    return replace(page, encoding=found, reduced=tuple(reduced))


def _kept_dimensions(dims: int, side: int) -> Tensor:
    """Which dimensions are kept, (C,): neighbours in pairs, since an even spread could hold the sines and no cosine."""
    if dims <= side:
        return torch.arange(dims)
    pairs = torch.arange(side // 2) * (dims // 2) // (side // 2)  # (side / 2,)
    return torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()  # (side / 2, 2) -> (side,)


def mask_data(
    mask: Any,
    query_len: int | None = None,
    key_len: int | None = None,
    *,
    batch: int | None = None,
    num_heads: int | None = None,
    title: str = "mask",
    source: str = "",
    notes: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> PageData:
    """The page of a mask: which query may read which key, in at most 512 x 512 cells, and how many.

    Example:
        >>> from regard import masks
        >>> from regard.look.plain import mask_data
        >>> mask_data(masks.causal(), 100).mask["maps"][0]["share"]
        0.505

    Args:
        mask: a mask, or booleans (..., L, S), a tensor or an array, True where attending is allowed.
        query_len: L; of booleans it is known.
        key_len: S; L if None.
        batch: B; that of the mask's tensors, or 1, if None.
        num_heads: H, likewise.
        title: what the page is called.
        source: where it came from.
        notes: what the reader must know.
        max_bytes: the most that the JSON may take; the maps get coarser until it fits.

    Returns:
        The data, with a map for each sequence and head that differ.

    Raises:
        TypeError: if mask is neither a mask nor booleans.
        ValueError: if query_len is missing or does not fit, or the data do not fit max_bytes.
    """
    found = mask_of(mask)
    lengths = _lengths(found, query_len, key_len)
    shown = dense(found) if isinstance(found, Tensor) else found
    page = frame("mask", title=title, source=source, notes=notes)

    def pooled(rows: int, cols: int) -> Tensor:
        share = shown.pool(*lengths, rows, cols, batch=batch, num_heads=num_heads)  # (R, C) or (B or 1, H or 1, R, C)
        return share[None, None] if share.ndim == 2 else share

    return _fitting(lambda side: _mask_page(page, pooled, lengths, side), max_bytes, "the smallest maps of the mask")


def _lengths(mask: Mask | Tensor, query_len: int | None, key_len: int | None) -> tuple[int, int]:
    """(L, S) of booleans, or for a mask."""
    given = {"query_len": query_len, "key_len": key_len}
    queries, keys = (
        None if length is None else whole(name, length, f"the number of {name[:-4]} positions, at least 1", least=1)
        for name, length in given.items()
    )
    if not isinstance(mask, Tensor):
        if queries is None:
            raise ValueError("query_len is None; a mask has no length of its own: expected the number of queries")
        return queries, queries if keys is None else keys
    if mask.ndim < 2 or 0 in mask.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected (..., L, S), a pair at least")
    own = (mask.shape[-2], mask.shape[-1])
    wanted = (queries or own[0], keys or queries or own[1])
    if wanted != own:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected (..., {wanted[0]}, {wanted[1]})")
    return own


def _mask_page(page: PageData, pooled: Callable[[int, int], Tensor], lengths: tuple[int, int], side: int) -> PageData:
    query_len, key_len = lengths
    rows, cols = min(side, query_len), min(side, key_len)
    share = pooled(rows, cols)  # (B or 1, H or 1, R, C)
    sequences, heads = share.shape[:2]
    heights, widths = (torch.arange(n + 1) * length // n for n, length in ((rows, query_len), (cols, key_len)))
    heights, widths = heights.diff().double(), widths.diff().double()  # (R,), (C,)
    maps = []
    for number in range(min(MOST_MAPS, sequences * heads)):
        sequence, head = divmod(number, heads)
        one = share[sequence, head]  # (R, C)
        named = [f"sequence {sequence}"] * (sequences > 1) + [f"head {head}"] * (heads > 1)
        codes = (one * 255).round().clamp(1, 254)
        codes = torch.where(one == 0, 0, torch.where(one == 1, 255, codes)).to(torch.uint8)
        per_query, per_key = one @ widths, heights @ one  # (R,), (C,)
        maps.append(
            {
                "name": ", ".join(named),
                "share": float(per_query @ heights) / (query_len * key_len),
                "codes": packed(octets(codes)),
                "per_query": packed(floats(per_query)),
                "per_key": packed(floats(per_key)),
            }
        )
    reduced = []
    if len(maps) < sequences * heads:
        reduced.append(f"{len(maps)} of {sequences * heads:,} maps are shown, those of the first sequences.")
    found = {"query_len": query_len, "key_len": key_len, "rows": rows, "cols": cols, "maps": maps}
    return replace(page, mask=found, reduced=tuple(reduced))


def _fitting(make: Callable[[int], PageData], max_bytes: int, least: str) -> PageData:
    """The finest page that fits."""
    for side in SIDES:
        data = make(side)
        if len(data.to_json()) <= max_bytes:
            return data
    raise ValueError(f"max_bytes is {max_bytes:,}, which {least} exceeds; allow more")
