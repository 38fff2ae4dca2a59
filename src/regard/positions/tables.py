"""Cos and sin of positions: computed in float64, rounded once, kept where they are used again."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from regard.positions.rotation import Pairing, Turns, pack, pack_few
from regard.positions.scalings import Scaling, plain_frequencies

__all__ = ["MOST_ROWS", "Tables", "angles", "tables_for"]

#: Positions past this one are computed at each call.
MOST_ROWS = 65_536

#: The first table has so many rows; a longer one has twice as many as the last.
FEWEST_ROWS = 512

#: Up to this many rows, the number of calls decides how long a rotation takes.
FEW = 4

#: The rows of the last call are kept up to this many: all layers of a model ask for the same.
MOST_KEPT = 4096


def angles(
    dim: int,
    base: float,
    scaling: Scaling | None,
    *,
    offset: int | Tensor,
    count: int,
    length: int | Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Cos and sin of positions offset .. offset + count - 1, (count, dim / 2), or (B, count, dim / 2).

    An angle of 1e5 in float32 is off by 4e-3 before its sine is taken: it is computed in float64, and only the sine,
    which is at most 1 in size, is rounded.
    """
    where = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    if scaling is None:
        frequencies = plain_frequencies(dim, base, where)  # (dim / 2,)
    else:
        length = length if scaling.needs_length else None
        frequencies = scaling.frequencies(dim, base, length, device=where)  # (dim / 2,) or (B, dim / 2)
    positions = torch.arange(count, dtype=torch.float64, device=where)  # (count,)
    positions = positions + (offset.to(where)[..., None] if isinstance(offset, Tensor) else offset)  # or (B, count)
    angle = positions[..., None] * frequencies[..., None, :]  # (count, dim / 2) or (B, count, dim / 2)
    factor = 1.0 if scaling is None else float(scaling.attention_factor or 1.0)
    return (angle.cos() * factor).to(device, dtype), (angle.sin() * factor).to(device, dtype)


class Tables:
    """The tables of all :class:`regard.positions.Rotary` of one value, whatever layer they are in.

    They hold real tensors without a history: nothing of a graph, of FakeTensorMode or of inference_mode is kept.
    """

    def __init__(self, dim: int, base: float, scaling: Scaling | None, pairing: Pairing) -> None:
        self.value = (dim, base, scaling, pairing)
        self._kept: dict[Hashable, Turns] = {}
        self._last: tuple[Hashable, Turns] | None = None

    def rows(self, offset: int, count: int, *, length: int, device: torch.device, dtype: torch.dtype) -> Turns:
        """Rows offset .. offset + count - 1 of a table for texts of this length."""
        scaling = self.value[2]
        regime = None if scaling is None else scaling.regime(length)
        key = (offset, count, regime, device, dtype)
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        with torch.inference_mode(mode=False), torch.no_grad():
            if 0 <= offset <= offset + count <= MOST_ROWS and (scaling is None or scaling.fits_table(length)):
                table = self._table(offset + count, length=length, device=device, dtype=dtype)
                rows = tuple(t[offset : offset + count] for t in table)
            else:
                rows = self._made(offset, count, length=length, device=device, dtype=dtype)
            if count <= FEW:
                rows = pack_few(rows)
        if count <= MOST_KEPT:
            self._last = (key, rows)
        return rows

    def rows_of_each(
        self, offset: Tensor, count: int, *, length: int | Tensor | None, device: torch.device, dtype: torch.dtype
    ) -> Turns:
        """The same for offsets (B,): (B, count, ...)."""
        scaling = self.value[2]
        if offset.device.type == "cpu" and not (scaling is not None and scaling.needs_length) and offset.numel():
            low, high = (int(end) for end in offset.aminmax())
            if low >= 0 and high + count <= MOST_ROWS:
                with torch.inference_mode(mode=False), torch.no_grad():
                    table = self._table(high + count, length=0, device=device, dtype=dtype)
                index = offset[:, None] + torch.arange(count, device=offset.device)  # (B, count)
                return tuple(t[index.to(device)] for t in table)  # (B, count, ...)
        return self._made(offset, count, length=length, device=device, dtype=dtype)

    def _table(self, rows: int, *, length: int, device: torch.device, dtype: torch.dtype) -> Turns:
        scaling = self.value[2]
        key = (None if scaling is None else scaling.regime(length), device, dtype)
        table = self._kept.get(key)
        if table is None or table[0].shape[0] < rows:
            size = min(MOST_ROWS, max(FEWEST_ROWS, 1 << max(0, rows - 1).bit_length()))
            table = self._made(0, size, length=length, device=device, dtype=dtype)
            self._kept[key] = table
        return table

    def _made(
        self, offset: int | Tensor, count: int, *, length: int | Tensor | None, device: torch.device, dtype: torch.dtype
    ) -> Turns:
        dim, base, scaling, pairing = self.value
        cos, sin = angles(dim, base, scaling, offset=offset, count=count, length=length, device=device, dtype=dtype)
        return pack(cos, sin, pairing)

    def __reduce__(self) -> tuple[object, ...]:
        # A copy of a module, or one that is read from a file, shares the tables too.
        return tables_for, self.value


_ALL: WeakValueDictionary[Hashable, Tables] = WeakValueDictionary()


def tables_for(dim: int, base: float, scaling: Scaling | None, pairing: Pairing) -> Tables:
    """The tables of this value, as long as some module holds them."""
    key = (dim, base, scaling, pairing)
    found = _ALL.get(key)
    if found is None:
        found = _ALL.setdefault(key, Tables(dim, base, scaling, pairing))
    return found
