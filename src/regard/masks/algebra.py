"""What a mask is, and what can be asked of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard import validation
from regard.masks.intervals import Intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard.masks.planning import MaskPlan

__all__ = ["Mask", "Sizes"]

# Entries of a mask that are looked at together when its rule is not known.
LOOKED_AT = 1 << 22
# Entries of a rule that differs by sequence or head up to which all of them are looked at in search of intervals.
MOST_LOOKED_AT = 1 << 26


@dataclass(frozen=True)
class Sizes:
    """The sizes that a mask is asked for: batch_shape (...), heads H, query_len L, key_len S, and the device."""

    batch_shape: tuple[int, ...]
    heads: int
    query_len: int
    key_len: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    headless: bool = False

    @property
    def batch(self) -> int:
        """B: all leading axes counted together."""
        return int(torch.Size(self.batch_shape).numel())

    @property
    def shift(self) -> int:
        """The position of query 0 among the keys: S - L."""
        return self.key_len - self.query_len


class Mask(ABC):
    """Which keys each query may read; True = may attend. Compose with ``&``, ``|`` and ``~``.

    >>> from regard import masks
    >>> print((masks.causal() & masks.window(2)).picture(4))
    ■···
    ■■··
    ·■■·
    ··■■
    """

    @abstractmethod
    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        """Whether query ``q`` of batch ``b``, head ``h`` may read key ``kv``: integer tensors that broadcast, to
        boolean.
        """

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that this mask is made of."""
        return ()

    def bind(self, sizes: Sizes) -> Mask:
        """This mask checked against ``sizes``, its tensors 4-dimensional where they are indexed by batch and head."""
        return self

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        """An interval of keys that holds all that the queries [start, stop) may read; it may be wider than needed."""
        return 0, sizes.key_len

    def intervals(self, sizes: Sizes) -> Intervals | None:
        """The keys of each row as a few intervals, exactly; None if they are no few intervals.

        A rule that does not know is asked for every entry, some rows at a time.
        """
        if sizes.query_len == 0 or sizes.key_len == 0:
            return Intervals.everything(sizes.key_len, sizes.device)
        probe = self.block(slice(0, 1), slice(0, 1), sizes)
        maps = probe.shape[0] * probe.shape[1]
        if maps > 1 and maps * sizes.query_len * sizes.key_len > MOST_LOOKED_AT:
            return None  # as much to look at as there is to compute
        step = max(1, LOOKED_AT // (sizes.key_len * maps))
        rows = (slice(r, min(r + step, sizes.query_len)) for r in range(0, sizes.query_len, step))
        return Intervals.of_blocks((self.block(r, slice(0, sizes.key_len), sizes) for r in rows), sizes.key_len)

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        """The rectangle rows x keys of the mask, boolean, (B or 1, H or 1, rows, keys)."""
        dims = [torch.arange(n, device=sizes.device) for n in (sizes.batch, sizes.heads)]
        q = torch.arange(rows.start, rows.stop, device=sizes.device)
        kv = torch.arange(keys.start, keys.stop, device=sizes.device)
        b, h = dims[0].view(-1, 1, 1, 1), dims[1].view(1, -1, 1, 1)  # (B, 1, 1, 1), (1, H, 1, 1)
        out = self.allowed(b, h, q.view(1, 1, -1, 1), kv.view(1, 1, 1, -1), sizes)  # broadcasts to (B, H, rows, keys)
        validation.check_mask_result(out, (sizes.batch, sizes.heads, len(q), len(kv)))
        # A rule that ignores the batch or the head leaves these axes at 1; one that ignores a position is widened to
        # it.
        out = out.view((1,) * (4 - out.dim()) + tuple(out.shape))
        return out.expand(out.shape[0], out.shape[1], len(q), len(kv))

    def __and__(self, other: Mask) -> Mask:
        from regard.masks.composition import And

        return And(self, _operand(other, "&"))

    def __or__(self, other: Mask) -> Mask:
        from regard.masks.composition import Or

        return Or(self, _operand(other, "|"))

    def __invert__(self) -> Mask:
        from regard.masks.composition import Not

        return Not(self)

    def __rand__(self, other: object) -> Mask:
        return _operand(other, "&") & self

    def __ror__(self, other: object) -> Mask:
        return _operand(other, "|") | self

    def __bool__(self) -> bool:
        # `a and b` would silently be b.
        raise TypeError("a mask is neither true nor false; combine masks with &, | and ~, not with and, or, not")

    def to_dense(
        self,
        query_len: int,
        key_len: int | None = None,
        *,
        batch: int | None = None,
        num_heads: int | None = None,
        rows: slice | None = None,
        keys: slice | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The mask as a boolean tensor, (L, S), or (B or 1, H or 1, L, S) if it depends on the batch or the head.

        >>> from regard import masks
        >>> masks.causal().to_dense(2, 3)
        tensor([[ True,  True, False],
                [ True,  True,  True]])
        >>> masks.causal().to_dense(100_000, rows=slice(2, 4), keys=slice(1, 4))
        tensor([[ True,  True, False],
                [ True,  True,  True]])

        Args:
            query_len: L.
            key_len: S; L if None.
            batch: B; that of the mask's tensors, or 1, if None.
            num_heads: H, likewise.
            rows: the queries of a part, a slice of step 1; all of them if None. Only this part is made.
            keys: the keys of a part, likewise.
            device: where to make it.
        """
        key_len = query_len if key_len is None else key_len
        sizes = self._sizes(query_len, key_len, batch, num_heads, device)
        part = validation.check_part(rows, query_len, "rows"), validation.check_part(keys, key_len, "keys")
        out = self.bind(sizes).block(*part, sizes).contiguous()
        return out[0, 0] if out.shape[:2] == (1, 1) else out

    def pool(
        self,
        query_len: int,
        key_len: int,
        rows: int,
        cols: int,
        *,
        batch: int | None = None,
        num_heads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The share of allowed pairs in each of rows x cols cells, (R, C), or (B or 1, H or 1, R, C) as to_dense.

        Cell r holds the queries ``r * L // rows`` up to ``(r + 1) * L // rows``, a cell's keys likewise, as
        :meth:`regard.AttentionWeights.pool` has them. It takes O(L) memory: counted from intervals where the mask is a
        few intervals of keys a row, and else by blocks of rows. 0 and 1 are exact: none, and all.

        >>> from regard import masks
        >>> masks.causal().pool(100_000, 100_000, 2, 2)
        tensor([[0.5000, 0.0000],
                [1.0000, 0.5000]], dtype=torch.float64)

        Args:
            query_len: L.
            key_len: S.
            rows: R, 1 to L.
            cols: C, 1 to S.
            batch: B; that of the mask's tensors, or 1, if None.
            num_heads: H, likewise.
            device: where to count.

        Returns:
            float64.

        Raises:
            TypeError: rows or cols that are no integers.
            ValueError: more cells than queries or keys, or tensors of the mask that do not fit the sizes.
        """
        from regard.masks.pooling import pool

        for name, n, axis, most in (("rows", rows, "L", query_len), ("cols", cols, "S", key_len)):
            validation.check_cells(n, f"mask.pool({name})", axis, most)
        sizes = self._sizes(query_len, key_len, batch, num_heads, device)
        out = pool(self.bind(sizes), sizes, rows, cols)
        return out[0, 0] if out.shape[:2] == (1, 1) else out

    def to_block_mask(
        self,
        query_len: int,
        key_len: int | None = None,
        *,
        batch: int | None = None,
        num_heads: int | None = None,
        device: torch.device | str = "cpu",
        block_size: int = 128,
    ) -> Any:
        """This mask as FlexAttention's BlockMask, of the same polarity and alignment."""
        from torch.nn.attention.flex_attention import create_block_mask

        key_len = query_len if key_len is None else key_len
        sizes = self._sizes(query_len, key_len, batch, num_heads, device)
        bound = self.bind(sizes)

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return bound.allowed(b, h, q, kv, sizes)

        depends_on_batch, depends_on_heads = self._batch(0) or batch, self._heads(0) or num_heads
        return create_block_mask(
            mask_mod, depends_on_batch, depends_on_heads, query_len, key_len, device=str(device), BLOCK_SIZE=block_size
        )

    def _sizes(
        self, query_len: int, key_len: int, batch: int | None, heads: int | None, device: torch.device | str
    ) -> Sizes:
        validation.check_lengths(query_len, key_len)
        batch = (
            self._batch(1) if batch is None else validation.check_count(batch, "batch", 1, "the number of sequences")
        )
        heads = (
            self._heads(1) if heads is None else validation.check_count(heads, "num_heads", 1, "the number of heads")
        )
        return Sizes((batch,), heads, query_len, key_len, torch.device(device))

    def picture(self, query_len: int, key_len: int | None = None, *, width: int = 64) -> str:
        """The mask drawn in characters, queries down and keys across: ■ may attend, · may not, ▒ a cell with some of
        both.
        """
        validation.check_count(width, "picture(width)", 1, "the number of characters")
        from regard.masks.pooling import picture

        query_len = validation.check_count(query_len, "picture(query_len)", 1, "the number of queries")
        key_len = query_len if key_len is None else key_len
        validation.check_lengths(query_len, key_len)
        return picture(self, query_len, key_len, width)

    def plot(self, query_len: int, key_len: int | None = None, *, ax: Axes | None = None) -> Figure:
        """The mask drawn as a matplotlib figure, on ``ax`` if one is given."""
        from regard.look import figures

        return figures.mask(self, query_len, query_len if key_len is None else key_len, ax=ax)

    def plan(
        self, query_len: int, key_len: int | None = None, *, batch: int | None = None, num_heads: int | None = None
    ) -> MaskPlan:
        """What is left to do under this mask: its tiles, the share of the entries, the rectangles that are computed.

        >>> from regard import masks
        >>> masks.window(512).plan(16384)
        MaskPlan(window(512), 16 384 queries x 16 384 keys: 3.08% of the entries left, 1 causal + 1 band tiles; ...)

        Args:
            query_len: L.
            key_len: S; L if None.
            batch: B, which with the heads decides whether a small problem is worth tiles; that of the mask's tensors,
                or 1, if None.
            num_heads: H, likewise.

        Returns:
            A :class:`regard.masks.planning.MaskPlan` to print, ask (``share``, ``tiles``, ``boxes()``) and ``plot()``:
            what runs on CPU in float32, without a bias and with a key head for each query head.
        """
        from regard.masks.planning import plan_of

        key_len = query_len if key_len is None else key_len
        return plan_of(self, self._sizes(query_len, key_len, batch, num_heads, "cpu"))

    def _batch(self, default: int) -> int:
        """The batch size this mask was made for, or ``default``."""
        return default

    def _heads(self, default: int) -> int:
        """The number of heads this mask was made for, or ``default``."""
        return default


def _operand(other: object, operator: str) -> Mask:
    if isinstance(other, Mask):
        return other
    hint = "; wrap a boolean tensor in masks.dense(tensor)" if isinstance(other, Tensor) else ""
    raise TypeError(f"mask {operator} other: other must be a regard Mask, got {type(other).__name__}{hint}")
