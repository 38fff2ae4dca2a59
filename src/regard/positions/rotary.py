"""Rotary positions: pairs of columns of query and key turn by an angle that grows with the position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.engine.problem import compute_dtype
from regard.positions import checks
from regard.positions.base import Positions
from regard.positions.rotation import Pairing, Turns, is_plain, turn, turn_by_definition
from regard.positions.scalings import Scaling
from regard.positions.tables import angles, tables_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Rotary"]


class Rotary(Positions):
    """Rotary positions: the product of a query and a key depends on how far apart they stand, and on nothing else of
    where they stand.

    ``(a, b) -> (a cos(p theta_i) - b sin(p theta_i), b cos(p theta_i) + a sin(p theta_i))`` for pair i of the columns
    of a query or key at position p, with ``theta_i = base^(-2 i / R)``

    >>> import torch
    >>> from regard.positions import Rotary
    >>> rotary = Rotary(2)  # one pair, which turns by 1 radian a position
    >>> rotary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415]])
    >>> q, k = torch.rand(2, 1, 4, 8, 16), torch.rand(2, 1, 2, 8, 16)
    >>> near, far = Rotary(16).rotate(q[0], k[0]), Rotary(16).rotate(q[0], k[0], offset=1000)
    >>> scores = [q[:, :2] @ k.mT for q, k in (near, far)]
    >>> bool(torch.allclose(*scores, atol=1e-5))
    True

    Angles are computed in float64 and their cos and sin rounded once, to float32 (float64 for a float64 input); the
    rotation is computed in that precision, and rounded to the input's. What comes out depends on the arguments of the
    call and on no call before it. Modules of equal value share their tables, which hold at most 65,536 positions;
    those further on, and negative ones, are computed at each call. There are no parameters and no state.

    Args:
        dim: D, the width of one head.
        base: of the wavelengths; 2 pi times it is nearly the longest, in positions.
        pairing: which columns make a pair: ``"halves"`` (i, i + R / 2), as in Llama of Hugging Face and most others;
            ``"interleaved"`` (2 i, 2 i + 1), as in the paper. :func:`regard.positions.interleave` changes weights of
            one to the other.
        scaling: how frequencies change for texts longer than those of training: :class:`LinearScaling`,
            :class:`DynamicNTK`, :class:`YaRN`, :class:`Llama3Scaling`, :class:`LongRoPE`, or None.
        rotary_dim: R, how many of the leading columns turn; the others are left as they are. dim if None.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an odd number of columns, more than dim, a base that is not positive, a scaling that does not fit.

    References:
        Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.
    """

    def __init__(
        self,
        dim: int,
        *,
        base: float = 10000.0,
        pairing: Pairing = "halves",
        scaling: Scaling | None = None,
        rotary_dim: int | None = None,
    ) -> None:
        super().__init__()
        self._dim = _width(dim, rotary_dim)
        self._rotary_dim = self._dim if rotary_dim is None else checks.check_even(rotary_dim, "rotary_dim", self._dim)
        self._base = checks.check_base(base)
        if pairing not in ("halves", "interleaved"):
            raise ValueError(f"pairing must be 'halves' or 'interleaved', got {pairing!r}")
        self._pairing: Pairing = pairing
        if scaling is not None and not isinstance(scaling, Scaling):
            raise TypeError(
                f"scaling must be a scaling of regard.positions, such as LinearScaling(4.0), or None, got "
                f"{type(scaling).__name__}"
            )
        if scaling is not None:
            scaling.check_dim(self._rotary_dim, self._base)
        self._scaling = scaling
        self._tables = tables_for(self._rotary_dim, self._base, scaling, self._pairing)

    # Read-only: a table of other numbers must not stay behind.
    @property
    def dim(self) -> int:
        """D, the width of one head."""
        return self._dim

    @property
    def rotary_dim(self) -> int:
        """R, how many of the leading columns turn."""
        return self._rotary_dim

    @property
    def base(self) -> float:
        """The base of the wavelengths."""
        return self._base

    @property
    def pairing(self) -> Pairing:
        """Which columns make a pair."""
        return self._pairing

    @property
    def scaling(self) -> Scaling | None:
        """How frequencies change for long texts."""
        return self._scaling

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dim", "rotary_dim", "base", "pairing", "scaling"):
            raise AttributeError(f"Rotary.{name} is read-only; make another one: Rotary(..., {name}=...)")
        super().__setattr__(name, value)

    def forward(self, x: Tensor, *, offset: int | Tensor = 0, length: int | Tensor | None = None) -> Tensor:
        """Turn one tensor, queries or keys.

        Args:
            x: (..., L, D), floating-point; the first axis is that of the sequences where there are three or more.
            offset: the position of the first token, which may be negative: one for all, or an integer tensor (B,)
                with one for each sequence.
            length: how long the text is at the end of this call, for scalings that depend on it; one for all or (B,).
                None = where x ends, offset + L.

        Returns:
            (..., L, D) in x's dtype.

        Raises:
            TypeError: x is not a floating-point tensor, or offset or length not an integer.
            ValueError: another width than dim; offsets for another number of sequences; in a graph, a scaling that
                depends on the length where only a tensor could tell it.
        """
        checks.check_turned(x, "x", self._dim)
        start = checks.per_sequence(offset, "offset", x, "x")
        return _turned(x, self._turns(x, start, self._length(length, "x", (start, x))), self._pairing)

    def rotate(
        self,
        q: Tensor,
        k: Tensor,
        *,
        offset: int | Tensor = 0,
        key_offset: int | Tensor | None = None,
        length: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Query and key turned; see :meth:`Positions.rotate` and :meth:`forward`."""
        checks.check_turned(q, "q", self._dim)
        checks.check_turned(k, "k", self._dim)
        start = checks.per_sequence(offset, "offset", q, "q")
        key_start = start
        if key_offset is not None:
            key_start = checks.per_sequence(key_offset, "key_offset", k, "k")
        elif isinstance(start, Tensor) and start.dim():
            checks.per_sequence(start, "offset", k, "k")
        text = self._length(length, "q", (start, q), (key_start, k))
        turns = self._turns(q, start, text)
        out = _turned(q, turns, self._pairing)
        alike = k.shape[-2] == q.shape[-2] and k.dtype == q.dtype and k.device == q.device and is_plain(k) == turns[0]
        if key_offset is not None or not alike:
            turns = self._turns(k, key_start, text)
        return out, _turned(k, turns, self._pairing)

    def check_layer(self, *, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raise if a head is not dim wide."""
        if head_dim != self._dim:
            raise ValueError(
                f"positions={self!r}: dim must be the width of one head, D = d_k / num_heads = {head_dim}, got "
                f"{self._dim}"
            )

    def _length(self, length: Any, name: str, *pieces: tuple[int | Tensor, Tensor]) -> int | Tensor:
        """The length of the text where the scaling asks for it, else 0; pieces are (position of the first token, x)."""
        given = None if length is None else checks.per_sequence(length, "length", pieces[0][1], name)
        if self._scaling is None or not self._scaling.needs_length:
            return 0
        if given is not None:
            return given
        tensors = [offset for offset, _ in pieces if isinstance(offset, Tensor)]
        if tensors and torch.compiler.is_compiling():
            raise ValueError(
                "length must be given where offset is a tensor and torch.compile or torch.export makes a graph: the "
                f"frequencies of {type(self._scaling).__name__} depend on how long the text is; got None, pass "
                "length=..."
            )
        ends = [offset + x.shape[-2] for offset, x in pieces]
        if not tensors:
            return max(ends)
        each = [torch.as_tensor(end, device=tensors[0].device) for end in ends]
        return torch.stack(torch.broadcast_tensors(*each)).amax(dim=0)  # () or (B,)

    def _turns(self, x: Tensor, offset: int | Tensor, length: int | Tensor | None) -> tuple[bool, Turns]:
        """Whether they are packed, and cos and sin of the positions of x, (L, ...) or (B, L, ...)."""
        wide, count = compute_dtype(x.dtype), x.shape[-2]
        if not is_plain(x):
            value = (self._rotary_dim, self._base, self._scaling)
            return False, angles(*value, offset=offset, count=count, length=length, device=x.device, dtype=wide)
        offset, length = _number(offset), _number(length)
        if isinstance(offset, Tensor) or isinstance(length, Tensor):
            start = offset if isinstance(offset, Tensor) else torch.tensor(offset, device="cpu")
            rows = self._tables.rows_of_each(start, count, length=length, device=x.device, dtype=wide)
        else:
            rows = self._tables.rows(offset, count, length=length or 0, device=x.device, dtype=wide)
        return True, rows

    def plot(self, ax: Axes | None = None) -> Figure:
        """How many positions each pair takes for one turn, with and without the scaling; needs matplotlib."""
        from regard.positions import pictures

        return pictures.wavelengths(self._rotary_dim, self._base, self._scaling, ax)

    def extra_repr(self) -> str:
        """What the repr shows: options only where they differ from the default."""
        parts = [f"{self._dim}"]
        if self._base != 10000:
            parts.append(f"base={self._base:g}")
        if self._pairing != "halves":
            parts.append(f"pairing={self._pairing!r}")
        if self._rotary_dim != self._dim:
            parts.append(f"rotary_dim={self._rotary_dim}")
        if self._scaling is not None:
            parts.append(f"scaling={self._scaling!r}")
        return ", ".join(parts)


def _width(dim: Any, rotary_dim: Any) -> int:
    """The width of a head: even where all of it turns."""
    if rotary_dim is None:
        return checks.check_even(dim, "dim", hint=", or name how many of them do: rotary_dim=...")
    return checks.check_count(dim, "dim", "the width of one head")


def _number(given: Any) -> Any:
    """A tensor that holds one number, and costs nothing to look at, as that number."""
    if isinstance(given, Tensor) and given.dim() == 0 and given.device.type == "cpu":
        return int(given)
    return given


def _turned(x: Tensor, turns: tuple[bool, Turns], pairing: Pairing) -> Tensor:
    packed, rows = turns
    rows = tuple(_beside(t, x) for t in rows)
    return turn(x, rows) if packed else turn_by_definition(x, rows[0], rows[1], pairing)


def _beside(table: Tensor, x: Tensor) -> Tensor:
    """(B, L, ...) with axes of size 1 for what x has between its sequences and its tokens; (L, ...) as it is."""
    if table.dim() < 3:
        return table
    return table.view(table.shape[0], *(1,) * (x.dim() - 3), *table.shape[1:])  # (B, 1, ..., L, ...)
