"""Attention rollout: what the layers together read, as an operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor

from regard.weights import AttentionWeights

__all__ = ["Rollout", "rollout"]


class Recorded(Protocol):
    """A record of a call of attention, as :func:`regard.watch` makes them."""

    @property
    def weights(self) -> AttentionWeights:
        """(..., H, L, L)."""


class Rollout:
    """The product of the layers' weights, (..., L, L), never stored: ``rollout @ x``, ``rollout.mT @ y``,
    ``rollout[i]``.
    """

    def __init__(self, weights: Sequence[AttentionWeights], residual: float) -> None:
        self._weights = tuple(weights)
        self._residual = residual
        self._heads_axis = not weights[0]._layout.headless

    @property
    def shape(self) -> torch.Size:
        """(..., L, L)."""
        last = self._weights[0].shape
        return torch.Size((*(last[:-3] if self._heads_axis else last[:-2]), *last[-2:]))

    @property
    def mT(self) -> TransposedRollout:
        """The transposed operator: ``rollout.mT @ y``."""
        return TransposedRollout(self)

    def _step(self, operator: object, x: Tensor) -> Tensor:
        """One layer: ``residual * x + (1 - residual) * mean over heads of (A @ x)``, x (..., L, N)."""
        per_head = x.unsqueeze(-3) if self._heads_axis else x  # (..., 1, L, N)
        read: Tensor = operator @ per_head  # type: ignore[operator]  # (..., H, L, N)
        read = read.mean(-3) if self._heads_axis else read  # (..., L, N)
        return self._residual * x + (1 - self._residual) * read

    def _start(self, x: Tensor) -> tuple[Tensor, bool]:
        if not isinstance(x, Tensor) or x.dim() == 0 or x.shape[-1 if x.dim() == 1 else -2] != self.shape[-1]:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"rollout @ x: x must have {self.shape[-1]} rows (L, axis -2), got {got}")
        vector = x.dim() == 1
        x = x[:, None] if vector else x  # (L,) -> (L, 1)
        batch, given = self.shape[:-2], x.shape[:-2]
        if len(given) > len(batch) or any(
            n not in (1, m) for n, m in zip(reversed(given), reversed(batch), strict=False)
        ):
            raise ValueError(
                f"rollout @ x: the batch axes of x, {tuple(given)}, must broadcast to those of the rollout, "
                f"{tuple(batch)}, got x of shape {tuple(x.shape)}"
            )
        return x.expand(*batch, *x.shape[-2:]), vector

    def __matmul__(self, x: Tensor) -> Tensor:
        """``A_n @ (... @ (A_1 @ x))``: x (..., L, N) or (L,); one fused pass a layer."""
        x, vector = self._start(x)
        for weights in self._weights:
            x = self._step(weights, x)
        return x[..., 0] if vector else x

    def __getitem__(self, query: int) -> Tensor:
        """What query ``query`` reads of each input position, (..., L): one row."""
        n = self.shape[-1]
        if isinstance(query, bool) or not isinstance(query, int):
            raise TypeError(f"rollout[query]: query must be an integer, got {type(query).__name__}")
        if not -n <= query < n:
            raise IndexError(f"rollout[query]: query {query} is out of range for L={n}; expected {-n}..{n - 1}")
        one = torch.zeros(n, dtype=self._weights[0].lse.dtype, device=self._weights[0].device)
        one[query] = 1
        return self.mT @ one

    def to_dense(self) -> Tensor:
        """The whole product, (..., L, L): L x L memory."""
        w = self._weights[0]
        return self @ torch.eye(self.shape[-1], dtype=w.lse.dtype, device=w.device)

    def __repr__(self) -> str:
        return (
            f"Rollout({' x '.join(map(str, self.shape))} over {len(self._weights)} layers, residual={self._residual})"
        )


class TransposedRollout:
    """``rollout.mT``: what each input position gives to the queries."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout

    @property
    def shape(self) -> torch.Size:
        """(..., L, L)."""
        return self._rollout.shape

    def __matmul__(self, y: Tensor) -> Tensor:
        y, vector = self._rollout._start(y)
        for weights in reversed(self._rollout._weights):
            y = self._rollout._step(weights.mT, y)
        return y[..., 0] if vector else y


def rollout(weights: Iterable[AttentionWeights | Recorded], *, residual: float = 0.5) -> Rollout:
    """Attention rollout through the layers, as an operator that is never stored.

    ``R = B_n @ ... @ B_1`` with ``B_l = residual * I + (1 - residual) * mean over heads of A_l``.

    >>> import torch, regard
    >>> x = torch.eye(2)
    >>> weights = [regard.attention(x, x, x, regard.masks.causal(), scale=0.0)[1] for _ in range(2)]
    >>> regard.rollout(weights).to_dense()
    tensor([[1.0000, 0.0000],
            [0.4375, 0.5625]])

    Args:
        weights: one :class:`regard.AttentionWeights` a layer, first layer first, each (..., H, L, L) or (..., L, L); or
            what :func:`regard.watch` has seen of one forward: a ``Seen``, or records of it; of one stack of layers.
        residual: the share of a position's own stream in each layer, in [0, 1].

    Returns:
        A :class:`Rollout` of shape (..., L, L): ``@ x`` and ``.mT @ y`` cost one fused pass a layer, ``[i]`` is a row.

    Raises:
        TypeError: weights that are no sequence of :class:`regard.AttentionWeights` or records, residual not a number.
        ValueError: no weights, weights that are not square or differ in shape, records of several forwards or stacks
            (encoder, decoder, cross-attention), residual outside [0, 1].

    References:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020.
    """
    _check_residual(residual)
    if isinstance(weights, AttentionWeights | Tensor) or not isinstance(weights, Iterable):
        one = "[weights]" if isinstance(weights, AttentionWeights) else "[record]" if _is_record(weights) else ""
        hint = f"; for one layer pass {one}" if one else ""
        raise TypeError(
            "rollout(weights): weights must be a sequence of regard.AttentionWeights, one a layer, "
            f"got {type(weights).__name__}{hint}"
        )
    given = list(weights)
    if not given:
        raise ValueError("rollout(weights): expected at least one layer's weights, got none")
    _check_one_forward(given)
    layers = [_layer_weights(item, _named(n, item)) for n, item in enumerate(given)]
    first = layers[0]
    for n, (item, w) in enumerate(zip(given, layers, strict=True)):
        if w.shape[-1] != w.shape[-2]:
            fix = "; pass the records of self-attention alone" if _is_record(item) else ""
            raise ValueError(
                f"rollout(weights): {_named(n, item)} must be square (self-attention), got {tuple(w.shape)}{fix}"
            )
        if (w.shape[-2:], w._layout) != (first.shape[-2:], first._layout):
            raise ValueError(
                f"rollout(weights): every layer must have the batch and length of {_named(0, given[0])}, "
                f"{tuple(first.shape)}, got {tuple(w.shape)} in {_named(n, item)}"
            )
    _check_one_stack(given)
    return Rollout(layers, float(residual))


def _is_record(item: object) -> bool:
    """Whether it is a record of a call: it has weights, and is none."""
    # Of the class: what a record's property raises is for whoever asks for the weights.
    return not isinstance(item, AttentionWeights) and (
        hasattr(type(item), "weights") or "weights" in getattr(item, "__dict__", ())
    )


def _named(n: int, item: object) -> str:
    """The layer, with the name of its record where it has one."""
    name = getattr(item, "name", None)
    return f"layer {n} ({name})" if isinstance(name, str) and name else f"layer {n}"


def _layer_weights(item: object, named: str) -> AttentionWeights:
    """The weights of one layer, from themselves or from a record of their call."""
    weights = item.weights if _is_record(item) else item  # type: ignore[attr-defined]
    if not isinstance(weights, AttentionWeights):
        raise TypeError(f"rollout(weights): {named} must be regard.AttentionWeights, got {type(weights).__name__}")
    return weights


def _check_one_forward(items: Sequence[object]) -> None:
    """Records know which forward they are of; the layers of two are no model."""
    steps = sorted({item.step for item in items if _is_record(item) and hasattr(item, "step")})
    if len(steps) > 1:
        raise ValueError(
            f"rollout(weights): the records are of {len(steps)} forwards, steps {steps[0]} to {steps[-1]}; pass those "
            f"of one, [record for record in seen if record.step == {steps[0]}], or, of a generation, one map a module, "
            "[seen.joined(name) for name in dict.fromkeys(seen.names)]"
        )


def _check_one_stack(items: Sequence[object]) -> None:
    """An encoder and a decoder of one length would multiply, and mean nothing."""
    names = [name for item in items if _is_record(item) and isinstance(name := getattr(item, "name", None), str)]
    if names:
        # The names are those that a watch gives; layers without need none of it.
        from regard.watch.answers_stacks import check_one_stack

        check_one_stack(names, "rollout(weights)")


def _check_residual(residual: float) -> None:
    if isinstance(residual, bool) or not isinstance(residual, Real):
        raise TypeError(f"rollout(residual): residual must be a number in [0, 1], got {type(residual).__name__}")
    if not 0 <= residual <= 1:
        raise ValueError(f"rollout(residual): residual must be in [0, 1], got {residual}")
