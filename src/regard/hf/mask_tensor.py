"""MaskTensor: a mask that models hand on as they would a tensor (B, 1, L, S), and that is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from regard import masks

__all__ = ["MaskTensor"]

_SAME = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)
_ADDING = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor, torch.ops.aten.sub.Tensor)


class MaskTensor(Tensor):
    """Booleans (B, 1, L, S), True = may attend, that are made only if somebody computes with them.

    Models look at the shape of their mask, keep it, and hand it on: for that nothing is stored but the rule. One that
    slices it, joins it to another or moves it gets the dense tensor of all entries, so what it computes is right.

    >>> import torch
    >>> from regard import masks
    >>> from regard.hf.mask_tensor import MaskTensor
    >>> mask = MaskTensor(masks.causal(), (2, 1, 3, 3), torch.device("cpu"))
    >>> mask.shape, mask.dtype, mask.rule
    (torch.Size([2, 1, 3, 3]), torch.bool, causal())
    >>> mask[0, 0, :2]
    tensor([[ True, False, False],
            [ True,  True, False]])

    Attributes:
        rule: the :class:`regard.masks.Mask`, or None where every query may read every key.
    """

    rule: masks.Mask | None
    _entries: _Entries

    @staticmethod
    def __new__(  # noqa: D102
        cls: type[MaskTensor], rule: masks.Mask | None, shape: tuple[int, int, int, int], device: torch.device
    ) -> MaskTensor:
        made: MaskTensor = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        made.rule = rule
        made._entries = _Entries()
        return made

    def __init__(self, rule: masks.Mask | None, shape: tuple[int, int, int, int], device: torch.device) -> None:
        super().__init__()

    def dense(self) -> Tensor:
        """All entries, (B, 1, L, S) booleans; kept, since every layer that asks would ask again."""
        if self._entries.tensor is None:
            batch, _, query_len, key_len = self.shape
            if self.rule is None:
                made = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)
            else:
                made = self.rule.to_dense(query_len, key_len, batch=batch, num_heads=1, device=self.device)
            # Contiguous, as a model may write to it: (L, S) or (B or 1, 1, L, S) to (B, 1, L, S).
            self._entries.tensor = made.expand(batch, 1, query_len, key_len).contiguous()
        return self._entries.tensor

    @property
    def open(self) -> bool:
        """Whether somebody wrote to the entries, or has memory of theirs, so that the rule may not be what they say."""
        return self._entries.open

    def again(self) -> MaskTensor:
        """The same mask as another object, which is what PyTorch takes for a view."""
        batch, heads, query_len, key_len = self.shape
        made = MaskTensor(self.rule, (batch, heads, query_len, key_len), self.device)
        made._entries = self._entries
        return made

    # What only C++ sees, and operations that no override names, end at the dispatcher: one place for all of them.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func in _SAME or (func is torch.ops.aten.slice.Tensor and _whole(*args)):
            return args[0].again()
        if func in _ADDING:
            # No TypeError: Python would take one for "try the other operand", and lose the words.
            raise RuntimeError(
                'this model adds its attention mask to scores of its own: with attn_implementation="regard" a mask is '
                "boolean, True = may attend, and the attention must go through transformers' AttentionInterface. This "
                'architecture, or this layer of it, does not; use attn_implementation="eager" for it'
            )
        first = args[0] if args and isinstance(args[0], MaskTensor) else None
        args, kwargs = tree_map_only(MaskTensor, MaskTensor.dense, (args, kwargs or {}))
        found = func(*args, **kwargs)
        if first is None or not _shares(found, args[0]):
            return found
        # Whoever has a view may write to it, and what is written must be what masks.
        first._entries.open = True
        return first if func._schema.is_mutable else found

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"MaskTensor({' x '.join(map(str, self.shape))}, {'all' if self.rule is None else self.rule})"


class _Entries:
    """The dense tensor, once it is made, for all objects that are the same mask."""

    tensor: Tensor | None = None
    open = False


def _shares(found: Any, dense: Tensor) -> bool:
    """Whether a result is memory of the entries."""
    return isinstance(found, Tensor) and found.untyped_storage().data_ptr() == dense.untyped_storage().data_ptr()


def _whole(given: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> bool:
    """Whether a slice leaves the axis as it is, as ``mask[:, :, :, : key.shape[-2]]`` mostly does."""
    return not start and step == 1 and (end is None or end >= given.shape[dim])
