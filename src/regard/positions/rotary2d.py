"""Rotary positions of a picture: half of the columns turn with the row, half with the column."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from regard.engine.problem import compute_dtype
from regard.positions import checks
from regard.positions.base import Positions
from regard.positions.rotation import Pairing, Turns, is_plain, pack, turn, turn_by_definition
from regard.positions.scalings import plain_frequencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Rotary2d"]


class Rotary2d(Positions):
    """Rotary positions of patches: the product of a query and a key depends on how many rows and how many columns they
    are apart, and on nothing else of where they stand.

    Pair i of the D / 2 pairs turns by ``row * theta_i`` for i < D / 4, by ``column * theta_(i - D / 4)`` for the rest,
    with ``theta_i = base^(-4 i / D)``

    >>> import torch
    >>> from regard.positions import Rotary2d
    >>> rotary = Rotary2d(4, grid=(2, 3))  # two rows of three patches; pairs (0, 2) and (1, 3)
    >>> rotary(torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(6, 4))[[0, 1, 3]]  # patches (0, 0), (0, 1) and (1, 0)
    tensor([[1.0000, 1.0000, 0.0000, 0.0000],
            [1.0000, 0.5403, 0.0000, 0.8415],
            [0.5403, 1.0000, 0.8415, 0.0000]])

    Tokens are in row-major order: patch (r, c) is token ``r * cols + c``. A picture is read whole: there is no offset.
    This is the order of frequencies of Qwen2-VL's vision tower; other models mix rows and columns otherwise.

    What it does past its training length: for a larger grid the same rotations go on, to angles that the model has
    not seen.

    Args:
        dim: D, the width of one head, a multiple of 4.
        grid: (rows, cols), the height and the width of the picture in patches.
        base: of the wavelengths.
        pairing: which columns make a pair, ``"halves"`` or ``"interleaved"``, as for :class:`Rotary`.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a width that is no multiple of 4, an empty grid, a base that is not positive.

    References:
        Heo et al., Rotary Position Embedding for Vision Transformer, 2024 (axial); Wang et al., Qwen2-VL, 2024.
    """

    def __init__(self, dim: int, *, grid: tuple[int, int], base: float = 10000.0, pairing: Pairing = "halves") -> None:
        super().__init__()
        width = checks.check_count(dim, "dim", "the width of one head", 4)
        if width % 4:
            raise ValueError(f"dim must be a multiple of 4, got {width}; rows and columns have half of the pairs each")
        if not isinstance(grid, tuple | list) or len(grid) != 2:
            raise TypeError(f"grid must be a pair (rows, cols), got {grid!r}")
        rows, cols = (checks.check_count(n, "grid", "the rows and the columns, (rows, cols)") for n in grid)
        if pairing not in ("halves", "interleaved"):
            raise ValueError(f"pairing must be 'halves' or 'interleaved', got {pairing!r}")
        self._table = _table_of(width, (rows, cols), checks.check_base(base), pairing)

    @property
    def dim(self) -> int:
        """D, the width of one head."""
        return self._table.dim

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._table.grid

    @property
    def base(self) -> float:
        """The base of the wavelengths."""
        return self._table.base

    @property
    def pairing(self) -> Pairing:
        """Which columns make a pair."""
        return self._table.pairing

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dim", "grid", "base", "pairing"):
            raise AttributeError(f"Rotary2d.{name} is read-only; make another one: Rotary2d(..., {name}=...)")
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Turn one tensor, queries or keys.

        Args:
            x: (..., rows * cols, D), floating-point, the tokens in row-major order.

        Returns:
            The same shape, in x's dtype.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: another width than dim, or another number of tokens than rows * cols.
        """
        self._check(x, "x")
        return self._turn(x)

    def rotate(
        self,
        q: Tensor,
        k: Tensor,
        *,
        offset: int | Tensor = 0,
        key_offset: int | Tensor | None = None,
        length: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Query and key turned; see :meth:`Positions.rotate`. An offset other than 0 is refused."""
        for name, given in (("offset", offset), ("key_offset", key_offset)):
            if not checks.is_zero(given):
                raise ValueError(f"{name} must be 0 with positions={self!r}: a picture is read whole, got {given!r}")
        self._check(q, "q")
        self._check(k, "k")
        return self._turn(q), self._turn(k)

    def check_layer(self, *, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raise if a head is not dim wide."""
        if head_dim != self.dim:
            raise ValueError(
                f"positions={self!r}: dim must be the width of one head, D = d_k / num_heads = {head_dim}, got "
                f"{self.dim}"
            )

    def _check(self, x: Tensor, name: str) -> None:
        checks.check_turned(x, name, self.dim)
        rows, cols = self.grid
        if x.shape[-2] not in (0, rows * cols):  # a layer asks with no token where it has only queries, or only keys
            raise ValueError(
                f"{name} must have L = rows * cols = {rows} * {cols} = {rows * cols} tokens (axis -2), in row-major "
                f"order, got {x.shape[-2]}; positions={self!r} are for one size of picture"
            )

    def _turn(self, x: Tensor) -> Tensor:
        if x.shape[-2] == 0:
            return x
        wide = compute_dtype(x.dtype)
        if is_plain(x):
            return turn(x, self._table.turns(x.device, wide))
        return turn_by_definition(x, *self._table.angles(x.device, wide), self.pairing)

    def plot(self, ax: Axes | None = None) -> Figure:
        """How alike the rotations of the patch in the middle and of each other one are; needs matplotlib."""
        from regard.positions import pictures

        cos, sin = self._table.angles(torch.device("cpu"), torch.float64)  # (rows * cols, D / 2)
        rows, cols = self.grid
        middle = rows // 2 * cols + cols // 2
        alike = (cos * cos[middle] + sin * sin[middle]).mean(dim=-1)  # the mean of cos(angle - angle of the middle)
        return pictures.patches(alike.view(rows, cols), ax)

    def extra_repr(self) -> str:
        """What the repr shows: options only where they differ from the default."""
        parts = [f"{self.dim}, grid={self.grid}"]
        if self.base != 10000:
            parts.append(f"base={self.base:g}")
        if self.pairing != "halves":
            parts.append(f"pairing={self.pairing!r}")
        return ", ".join(parts)


class _Table:
    """cos and sin of all patches, shared by the modules of one value."""

    def __init__(self, dim: int, grid: tuple[int, int], base: float, pairing: Pairing) -> None:
        self.dim, self.grid, self.base, self.pairing = dim, grid, base, pairing
        self._kept: dict[Hashable, Turns] = {}

    def angles(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cos and sin, (rows * cols, D / 2)."""
        rows, cols = self.grid
        where = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        frequencies = plain_frequencies(self.dim // 2, self.base, where)  # (D / 4,)
        down = torch.arange(rows, dtype=torch.float64, device=where)[:, None, None] * frequencies  # (rows, 1, D / 4)
        across = torch.arange(cols, dtype=torch.float64, device=where)[:, None] * frequencies  # (cols, D / 4)
        each = torch.broadcast_tensors(down, across)  # twice (rows, cols, D / 4)
        angle = torch.cat(each, dim=-1).flatten(0, 1)  # (rows * cols, D / 2)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)

    def turns(self, device: torch.device, dtype: torch.dtype) -> Turns:
        """The same, packed and kept."""
        found = self._kept.get((device, dtype))
        if found is None:
            with torch.inference_mode(mode=False), torch.no_grad():
                found = self._kept[device, dtype] = pack(*self.angles(device, dtype), self.pairing)
        return found

    def __reduce__(self) -> tuple[object, ...]:
        return _table_of, (self.dim, self.grid, self.base, self.pairing)


_TABLES: WeakValueDictionary[Hashable, _Table] = WeakValueDictionary()


def _table_of(dim: int, grid: tuple[int, int], base: float, pairing: Pairing) -> _Table:
    key = (dim, grid, base, pairing)
    found = _TABLES.get(key)
    return _TABLES.setdefault(key, _Table(*key)) if found is None else found
