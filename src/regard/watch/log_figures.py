"""The figures of a training step: what is watched for, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.watch.record import Record

__all__ = ["FIGURES", "Figures", "LayerFigures", "Tally", "summary"]

#: What is said of each head.
FIGURES = ("entropy", "max_logit", "first_token")


def summary(weights: AttentionWeights) -> Tensor:
    """Of each head, over batch and queries: rows that may read a key, the sums of their entropy and of their mass on
    the first key, and their largest logit, (4, H).

    Sums and not means: those of several calls add up to what one call with all the rows would give.
    """
    entropy, logit, first = weights.ask("entropy", "max_logit", ("mass", 0))  # (..., H, L) each
    if weights.ndim < 4:  # (N, L, S) and (L, S) have no axis of heads
        entropy, logit, first = (t.unsqueeze(-2) for t in (entropy, logit, first))  # (..., 1, L)
    heads = [t.movedim(-2, 0).flatten(1) for t in (entropy, logit, first)]  # (H, rows) each
    entropy, logit, first = heads
    # A row without keys (a text that is all padding) says nothing. A NaN does: it is different from -inf, and stays.
    real = logit != -torch.inf
    sums = [real.to(entropy.dtype).sum(1), entropy.where(real, 0).sum(1), first.where(real, 0).sum(1)]
    return torch.stack([*sums, logit.amax(1)])  # (4, H)


@dataclass(frozen=True, eq=False)
class LayerFigures:
    """The figures of one attention layer, a number a head: float64 tensors (H,) on the CPU.

    Attributes:
        name: the layer's.
        entropy: mean entropy of the rows, in nats; ``log(keys)`` is that of a row which reads all keys alike.
        max_logit: the largest score before the softmax, after scale, cap, bias and mask.
        first_token: mean weight of the rows on the first key.
        keys: how many keys there were, at most.
    """

    name: str
    entropy: Tensor
    max_logit: Tensor
    first_token: Tensor
    keys: int

    def summary(self) -> dict[str, float]:
        """Over the heads: mean entropy, that of the head with the smallest, the largest logit, mean first-token mass.

        >>> LayerFigures("a", *torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.25, 0.75]]), keys=8).summary()
        {'entropy': 1.5, 'min_entropy': 1.0, 'max_logit': 5.0, 'first_token': 0.5}
        """
        return {
            "entropy": float(self.entropy.mean()),
            "min_entropy": float(self.entropy.min()),
            "max_logit": float(self.max_logit.max()),
            "first_token": float(self.first_token.mean()),
        }


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of one step: a mapping from the names of the attention layers to their :class:`LayerFigures`.

    >>> layer = LayerFigures("a", *torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.25, 0.75]]), keys=8)
    >>> figures = Figures(100, (layer,))
    >>> figures["a"].entropy
    tensor([1., 2.])
    >>> figures.scalars()["attention_max_logit/a"], figures.scalars()["attention/max_logit"]
    (5.0, 5.0)

    Attributes:
        step: how many updates the weights had had.
        layers: the layers, in the order in which they were first called.
    """

    step: int
    layers: tuple[LayerFigures, ...]

    @property
    def names(self) -> list[str]:
        """The names of the layers."""
        return [layer.name for layer in self.layers]

    def __getitem__(self, name: str) -> LayerFigures:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r} in the figures; expected one of {', '.join(map(repr, self.names))}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.layers)

    def summary(self) -> dict[str, float]:
        """As :meth:`LayerFigures.summary`, over all heads of all layers."""
        entropy, logit, first = (torch.cat([getattr(layer, name) for layer in self.layers]) for name in FIGURES)
        return LayerFigures("", entropy, logit, first, max(layer.keys for layer in self.layers)).summary()

    def scalars(self) -> dict[str, float]:
        """One flat dictionary for a dashboard: "attention/entropy" over the model, "attention_entropy/NAME" a layer."""
        found = {f"attention/{figure}": value for figure, value in self.summary().items()}
        for layer in self.layers:
            found |= {f"attention_{figure}/{layer.name}": value for figure, value in layer.summary().items()}
        return found

    def rows(self) -> Iterator[tuple[int, str, int, float, float, float, int]]:
        """One row a head: step, layer, head, entropy, max_logit, first_token, keys."""
        for layer in self.layers:
            columns = [getattr(layer, name).tolist() for name in FIGURES]
            for head, (entropy, logit, first) in enumerate(zip(*columns, strict=True)):
                yield self.step, layer.name, head, entropy, logit, first, layer.keys

    def __repr__(self) -> str:
        rows = [("all", self.summary())] + [(layer.name, layer.summary()) for layer in self.layers]
        width = max(len(name) for name, _ in rows)
        head = f"{'':{width}}  entropy  smallest  max logit  first token"
        lines = [
            f"{name:<{width}}  {s['entropy']:7.3f}  {s['min_entropy']:8.3f}  {s['max_logit']:9.2f}  "
            f"{s['first_token']:11.3f}"
            for name, s in rows
        ]
        return "\n".join([f"Figures of step {self.step}", head, *lines])


class Tally:
    """Adds up the summaries of the calls of a step: several forwards, several calls of a layer."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._keys: dict[tuple[str, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, records: Iterable[Record]) -> None:
        """Count these records, which :func:`summary` was asked of.

        Raises:
            RuntimeError: a call whose weights cannot be had; the message says why.
        """
        for record in records:
            if summary not in record.statistics:
                _ = record.weights  # raises, and says why
            self._count(record.name, record.statistics[summary], record.shape[-1])

    def _count(self, name: str, told: Tensor, keys: int) -> None:
        place = (name, told.shape[1])  # told: (4, H)
        before = self._sums.get(place)
        if before is not None:
            told = torch.cat([before[:3] + told[:3], torch.maximum(before[3:], told[3:])])  # (4, H)
        self._sums[place] = told
        self._keys[place] = max(self._keys.get(place, 0), keys)

    def join(self, other: Tally) -> None:
        """Count what another one has counted."""
        for (name, heads), told in other._sums.items():
            self._count(name, told, other._keys[name, heads])

    def figures(self, step: int) -> Figures:
        """The figures of what was counted; the one time that a device is waited for."""
        names = [name for name, _ in self._sums]
        layers = []
        for (name, heads), sums in self._sums.items():
            rows, entropy, first, logit = sums.cpu().double()  # (H,) each
            # A layer may hold two attentions with different numbers of heads.
            spelled = name if names.count(name) == 1 else f"{name} ({heads} heads)"
            layers.append(LayerFigures(spelled, entropy / rows, logit, first / rows, self._keys[name, heads]))
        return Figures(step, tuple(layers))
