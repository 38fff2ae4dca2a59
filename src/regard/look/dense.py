"""Anybody's dense attention weights, asked as AttentionWeights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.look.checks import mask_of, numbers_of
from regard.look.dense_checks import check_rows, check_shape, fitting_mask
from regard.look.exact import TopK, by_weight
from regard.look.maps import max_dense, pool_dense
from regard.masks import Mask


class DenseWeights:
    """A stored (..., H, L, S) tensor of weights that answers what the page asks, with the names of AttentionWeights.

    Example:
        >>> import torch
        >>> from regard.look.dense import DenseWeights
        >>> weights = DenseWeights(torch.full((2, 3, 4), 0.25))
        >>> weights.ask("received", ("pool", 1, 2))[1][0]
        tensor([[0.5000, 0.5000]])

    Args:
        given: (B, H, L, S), (H, L, S) or (L, S), each row a distribution, or less than one; or an array, of which a
            copy is kept.
        mask: which pairs are allowed, where it is known: a mask of regard.masks, or booleans that broadcast to them.
        name: what the argument is called that it came as.

    Attributes:
        stored: the dtype that the weights had, which its rounding is of.

    Raises:
        TypeError: if it is not a tensor of numbers, or the mask is none.
        ValueError: if it is on meta, of another rank, empty, negative, not finite, its rows sum to more than 1, or the
            mask forbids what holds weight.
        RuntimeError: of what is asked, if weights or mask were written to since.
    """

    def __init__(self, given: Any, mask: Any = None, *, name: str = "weights") -> None:
        tensor = as_tensor(given, name)
        check_shape(tensor, name)
        self._name = name
        self._mask = None if mask is None else fitting_mask(mask, tensor)
        lowest = check_rows(tensor, self._mask, name)
        self.stored: torch.dtype = tensor.dtype
        held = tensor if tensor.dtype == torch.float64 else tensor.float()
        self._held: Tensor = held.clamp(min=0) if lowest < 0 else held
        self._written = self._writes()

    def _writes(self) -> list[int]:
        """How often the tensor and what the mask is made of were written to; inference tensors do not count it."""
        tensors = (self._held, *(() if self._mask is None else self._mask.tensors()))
        return [-1 if each.is_inference() else each._version for each in tensors]

    def _check_unwritten(self) -> None:
        for place, (before, now) in enumerate(zip(self._written, self._writes(), strict=True)):
            if before != now:
                raise RuntimeError(
                    f"{'mask' if place else self._name} was written to since it was given: what is asked now would be "
                    "of other numbers; ask before the write, or give its .clone()"
                )

    @property
    def tensor(self) -> Tensor:
        """The weights, float32 or float64."""
        self._check_unwritten()
        return self._held

    @property
    def mask(self) -> Mask | None:
        """The mask, or None where nothing is known to be forbidden."""
        self._check_unwritten()
        return self._mask

    @property
    def shape(self) -> torch.Size:
        """(..., H, L, S)."""
        return self._held.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._held.ndim

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self._held.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self._held.device

    def ask(self, *questions: Any) -> tuple[Any, ...]:
        """The answers to names, or tuples of a name and its arguments, in their order."""
        found = []
        for question in questions:
            name, *given = question if isinstance(question, tuple) else (question,)
            found.append(getattr(self, name)(*given))
        return tuple(found)

    def entropy(self) -> Tensor:
        """The entropy of each row in nats, (..., H, L)."""
        return -torch.xlogy(self.tensor, self.tensor).sum(-1)

    def received(self) -> Tensor:
        """The weight that each key receives, (..., H, S)."""
        return self.tensor.sum(-2)

    def pool(self, rows: int, cols: int, reduce: str = "mean") -> Tensor:
        """A map of rows x cols cells, (..., H, rows, cols): the mean rule of the page, or the largest weight."""
        return max_dense(self.tensor, rows, cols) if reduce == "max" else pool_dense(self.tensor, rows, cols)

    def topk(self, k: int) -> TopK:
        """The k largest weights of each row and their keys; a weight of 0 is of no key, index -1."""
        values, indices = by_weight(*self.tensor.topk(k, dim=-1))  # (..., H, L, k)
        return TopK(values, torch.where(values > 0, indices, -1))

    def diagonal(self, offset: int = 0) -> Tensor:
        """The entries ``[..., i, i + offset]``."""
        return self.tensor.diagonal(offset, -2, -1)

    def distance(self) -> Tensor:
        """The mean distance of what each row reads, with the last query at the last key, (..., H, L)."""
        query_len, key_len = self.shape[-2:]
        keys = torch.arange(key_len, device=self.device, dtype=self.dtype)
        places = torch.arange(query_len, device=self.device, dtype=self.dtype) + (key_len - query_len)
        return (self.tensor * (places[:, None] - keys).abs()).sum(-1)

    def mass(self, keys: int | slice) -> Tensor:
        """The weight of each row on some keys, (..., H, L)."""
        return self.tensor[..., keys].sum(-1) if isinstance(keys, slice) else self.tensor[..., keys]

    def __matmul__(self, x: Tensor) -> Tensor:
        """``A @ x``: x (S,) gives (..., H, L)."""
        return self.tensor @ x.to(self.dtype)

    def __getitem__(self, index: Any) -> Tensor:
        return self.tensor[index]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied tensor counts its writes anew.
        self.__dict__.update(state)
        self._written = self._writes()

    def __repr__(self) -> str:
        return f"DenseWeights({' x '.join(map(str, self.shape))}, {str(self.dtype)[6:]})"


def as_tensor(given: Any, name: str) -> Tensor:
    """The tensor of weights that came as a tensor, or a copy of those that came as an array.

    Raises:
        TypeError: if it is neither, or holds no floating point numbers.
    """
    if given is None:
        raise TypeError(
            f"{name} is None, as models return it whose attention stores no weights; load the model with "
            'attn_implementation="eager" and pass output_attentions=True, or run it inside regard.watch(model)'
        )
    kinds = "AttentionWeights, a tensor or an array, (B, H, L, S), (H, L, S) or (L, S)"
    return numbers_of(given, name, kinds, numbers="weights, floating point numbers from 0 to 1")


def layered(weights: Any, mask: Any = None) -> list[Any]:
    """The layers of one list, or a layer by itself, as :func:`wrapped` gives them.

    Args:
        weights: AttentionWeights, what ``regard.watch`` gave, or a dense tensor or array, (layers, B, H, L, S) or less;
            or a sequence of them.
        mask: of the dense ones.

    Returns:
        One a layer, at least one.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is empty, or as DenseWeights says.
    """
    weights = getattr(weights, "weights", weights)  # of a record, or of all of a watch
    if hasattr(weights, "ask"):
        given = [weights]
    elif isinstance(weights, Tensor) or hasattr(weights, "__array__"):
        tensor = as_tensor(weights, "weights")
        given = list(tensor) if tensor.ndim == 5 else [tensor]
    elif isinstance(weights, Sequence) and not isinstance(weights, str | bytes):
        given = list(weights)
    else:
        named = f" of {', '.join(map(repr, weights))}: pass one of them" if isinstance(weights, Mapping) else ""
        raise TypeError(
            f"weights is of type {type(weights).__name__}{named}; expected AttentionWeights or dense tensors, a layer "
            "or a list of them"
        )
    if not given:
        raise ValueError("weights is empty; expected one AttentionWeights a layer")
    layers = [getattr(each, "weights", each) for each in given]
    return wrapped(layers, ["weights" if len(given) == 1 else f"weights[{n}]" for n in range(len(given))], mask)


def wrapped(layers: Sequence[Any], names: Sequence[str], mask: Any) -> list[Any]:
    """Layers that can be asked: AttentionWeights as they are, everything else as DenseWeights.

    Args:
        layers: AttentionWeights, tensors or arrays.
        names: what each is called in an error.
        mask: of the dense ones.

    Returns:
        One a layer.

    Raises:
        ValueError: if a layer that knows its mask is given another, or is on meta.
    """
    found = []
    mask = None if mask is None else mask_of(mask)  # once for all of them
    for layer, name in zip(layers, names, strict=True):
        if not hasattr(layer, "ask"):
            found.append(DenseWeights(layer, mask, name=name))
            continue
        if mask is not None:
            raise ValueError(f"mask was given, but {name} knows its own; a mask is for dense tensors")
        if layer.device.type == "meta":
            raise ValueError(f"{name} is on the device meta, which holds no numbers; run the model on a real device")
        found.append(layer)
    return found
