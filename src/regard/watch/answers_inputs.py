"""What questions over all layers are given: layers that belong together, positions, documents, a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard import AttentionWeights
from regard.watch.answers_stacks import check_one_stack
from regard.watch.seen import Seen

__all__ = ["Layer", "Positions", "document_ids", "layers_of", "positions", "sequence_of"]

Positions = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class Layer:
    """The weights of one layer and the name of the module that has them, "" if it is not known."""

    name: str
    weights: AttentionWeights

    @property
    def lead(self) -> tuple[int, ...]:
        """The axes of the batch."""
        return tuple(self.weights.shape[: -3 if self.has_heads else -2])

    @property
    def has_heads(self) -> bool:
        """Whether there is an axis of heads: inputs (N, L, D) and (L, D) have none."""
        return self.weights.ndim > 3

    @property
    def dtype(self) -> torch.dtype:
        """That of what is computed: float32 at least."""
        return torch.promote_types(self.weights.dtype, torch.float32)


def layers_of(seen: Seen | Iterable[Any], *, square: bool) -> list[Layer]:
    """The layers of one forward; the steps of a generation are joined.

    Args:
        seen: a Seen, records, or AttentionWeights, first layer first.
        square: whether L and S must be the same.

    Returns:
        The layers, all of one batch, L and S.

    Raises:
        TypeError: seen that is none of these.
        ValueError: nothing, several forwards or stacks, or layers that differ.
    """
    if isinstance(seen, AttentionWeights | Tensor) or not isinstance(seen, Iterable):
        hint = "; for one layer pass [weights]" if isinstance(seen, AttentionWeights) else ""
        raise TypeError(
            f"sources(seen): expected what regard.watch has seen, or one AttentionWeights a layer, "
            f"got {type(seen).__name__}{hint}"
        )
    if isinstance(seen, Seen) and len({record.step for record in seen}) > 1:
        layers = [Layer(name, seen.joined(name)) for name in dict.fromkeys(seen.names)]
    else:
        layers = _from_items(list(seen))
    if not layers:
        raise ValueError("sources(seen): expected at least one layer, got none")
    first = layers[0]
    for number, layer in enumerate(layers):
        shape = tuple(layer.weights.shape)
        if square and shape[-1] != shape[-2]:
            raise ValueError(
                f"sources(seen): {_named(number, layer)} is not square, {shape}, and a rollout goes through "
                "self-attention; pass the records of self-attention alone, or ask with method='mean'"
            )
        if (layer.lead, shape[-2:]) != (first.lead, tuple(first.weights.shape[-2:])):
            raise ValueError(
                f"sources(seen): every layer must have the batch and lengths of {_named(0, first)}, "
                f"{tuple(first.weights.shape)}, got {shape} in {_named(number, layer)}; pass the records that belong "
                "together"
            )
    check_one_stack((layer.name for layer in layers), "sources(seen)")
    return layers


def _from_items(items: list[Any]) -> list[Layer]:
    steps = sorted({item.step for item in items if hasattr(item, "step")})
    if len(steps) > 1:
        raise ValueError(
            f"sources(seen): the records are of {len(steps)} forwards, steps {steps[0]} to {steps[-1]}; pass those of "
            f"one, [record for record in seen if record.step == {steps[0]}], or all that was seen of a generation, seen"
        )
    layers = []
    for number, item in enumerate(items):
        weights = item if isinstance(item, AttentionWeights) else getattr(item, "weights", item)
        if not isinstance(weights, AttentionWeights):
            raise TypeError(
                f"sources(seen): layer {number} must be a record or regard.AttentionWeights, "
                f"got {type(weights).__name__}"
            )
        layers.append(Layer("" if item is weights else str(getattr(item, "name", "")), weights))
    return layers


def _named(number: int, layer: Layer) -> str:
    return f"layer {number} ({layer.name})" if layer.name else f"layer {number}"


def positions(which: Positions, length: int, name: str, of: str) -> Tensor:
    """Positions in words of the user as distinct indices (n,), in order.

    Args:
        which: an index (negative ones from the end), a slice, indices, or booleans (length,).
        length: how many there are.
        name: the argument.
        of: what they are, "queries" or "keys".

    Returns:
        Integers (n,), on the CPU.

    Raises:
        TypeError: which is none of these.
        ValueError: there is no such position, or none at all.
    """
    kinds = "an index, a slice, indices, or booleans"
    if isinstance(which, slice):
        found = torch.arange(length)[which] if (which.step or 1) > 0 else torch.tensor(range(length)[which])
    else:
        try:
            found = torch.as_tensor(which).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"sources({name}): expected {kinds}, got {type(which).__name__} {which!r}") from None
        scalar = isinstance(which, bool)
        number = found.is_floating_point() or found.is_complex()
        if scalar or found.dim() > 1 or (number and found.numel()):  # an empty list is one of floats
            got = "bool" if scalar else f"{str(found.dtype)[6:]} of shape {tuple(found.shape)}"
            raise TypeError(f"sources({name}): expected {kinds}, got {got}")
        if found.dtype == torch.bool and found.numel():
            if len(found) != length:
                raise ValueError(f"sources({name}): expected {length:,} booleans, one for each of the {of}")
            found = found.nonzero()[:, 0]
    found = found.reshape(-1).long()
    outside = found[(found < -length) | (found >= length)]
    if outside.numel():
        raise ValueError(
            f"sources({name}): {int(outside[0])} is none of the {length:,} {of}; expected {-length} to {length - 1}"
        )
    if not found.numel():
        raise ValueError(f"sources({name}): {which!r} names none of the {length:,} {of}; expected at least one")
    distinct: Tensor = torch.where(found < 0, found + length, found).unique()
    return distinct


def document_ids(ids: Tensor | Sequence[int], name: str) -> Tensor:
    """Document ids as integers."""
    try:
        found = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected integers, one a key, got {type(ids).__name__} {ids!r}") from None
    if found.is_floating_point() or found.is_complex():
        raise TypeError(f"{name}: expected integers, one a key, got {str(found.dtype)[6:]}")
    return found.long()


def sequence_of(lead: tuple[int, ...], batch: int | None) -> int:
    """Which sequence of the batch axes, counted over all of them."""
    count = 1
    for n in lead:
        count *= n
    if batch is None:
        if count == 1:
            return 0
        raise ValueError(f"sources(batch): there are {count} sequences; say which: batch=0 to {count - 1}")
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise TypeError(f"sources(batch): expected an integer, got {type(batch).__name__}")
    if not 0 <= batch < count:
        raise ValueError(f"sources(batch): {batch} is none of the {count} sequences; expected 0 to {count - 1}")
    return batch
