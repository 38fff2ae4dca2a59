"""Tensors that are referred to until they are asked for, and whether somebody wrote to them since."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from regard import AttentionWeights

__all__ = ["Held", "Holder", "Keys"]

HOLDS = ("reference", "copy", "cpu")
# Masks that the next layers may share: layers take turns with two, and some have a bias or sinks of their own.
LATEST = 4
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Held:
    """One tensor, and how to tell that it was written to: its version, or a fingerprint where it has none."""

    __slots__ = ("__weakref__", "_fingerprint", "_splits", "_stale", "_version", "tensor")

    def __init__(self, tensor: Tensor, *, private: bool) -> None:
        self.tensor = tensor
        self._splits: dict[torch.dtype, tuple[Tensor | None, Tensor | None]] = {}
        self._stale = False
        self._version: int | None = None
        self._fingerprint: tuple[int, ...] | None = None
        if not private:
            if tensor.is_inference():
                self._fingerprint = fingerprint(tensor)
            else:
                self._version = tensor._version

    def __getstate__(self) -> tuple[Tensor, bool, bool]:
        return self.tensor, self._version is None and self._fingerprint is None, self.modified

    def __setstate__(self, state: tuple[Tensor, bool, bool]) -> None:
        tensor, private, stale = state
        Held.__init__(self, tensor, private=private)  # a copied tensor counts its writes anew
        self._stale = stale

    @property
    def modified(self) -> bool:
        """Whether the tensor was written to since it was seen."""
        if self._stale:
            return True
        if self._fingerprint is not None:
            return fingerprint(self.tensor) != self._fingerprint
        return self._version is not None and self.tensor._version != self._version

    def inverted(self) -> tuple[Tensor, None]:
        """A boolean mask whose True forbids, as what it allows."""
        if torch.bool not in self._splits:
            self._splits[torch.bool] = ~self.tensor, None
        return self._splits[torch.bool]  # type: ignore[return-value]

    def split(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """A float mask in ``dtype`` as what it allows, boolean, and what it adds; None for all, and for nothing.

        Made when it is first asked for, once for all layers that share the mask.
        """
        if self.tensor.requires_grad and torch.is_grad_enabled():
            return split(self.tensor, dtype)  # a graph is for one backward pass
        if dtype not in self._splits:
            self._splits[dtype] = split(self.tensor, dtype)
        return self._splits[dtype]


class Keys:
    """The keys of one module, which grow while it generates: earlier calls read the front of the latest."""

    __slots__ = ("held", "made")

    def __init__(self, held: Held) -> None:
        self.held = held
        #: The weights of each call, by its number, as far as they were asked for.
        self.made: dict[int, AttentionWeights] = {}

    def extend(self, held: Held) -> None:
        """Hold the longer keys from now on; the weights that were made hold the shorter ones."""
        self.held = held
        self.made = {}

    def front(self, length: int) -> Tensor:
        """The first ``length`` keys, (..., Hkv, length, D)."""
        t = self.held.tensor
        return t if t.shape[-2] == length else t[..., :length, :]

    def extended_by(self, new: Tensor) -> bool:
        """Whether ``new`` is these keys with more behind them, bit by bit."""
        old = self.held.tensor
        n = old.shape[-2]
        if self.held.modified:  # what it held is not known any more
            return False
        if old.dtype != new.dtype or old.device != new.device or old.dim() != new.dim() or old.requires_grad:
            return False
        if old.shape[:-2] != new.shape[:-2] or old.shape[-1] != new.shape[-1] or new.shape[-2] < n or n == 0:
            return False
        if new.data_ptr() == old.data_ptr() and new.stride() == old.stride():
            return True
        if new.shape[-2] == n:
            return False
        # Most that are no extension differ in one row, which is quick to see.
        return torch.equal(new[..., n - 1, :], old[..., n - 1, :]) and torch.equal(new[..., :n, :], old)


class Holder:
    """Holds tensors as ``hold`` says; a mask that many layers share is held once."""

    def __init__(self, hold: str, *, detach: bool) -> None:
        self.hold = hold
        self.detach = detach
        self._latest: list[tuple[object, Held, Held]] = []

    def tensor(self, t: Tensor) -> Held:
        """The tensor, or a copy of it, outside of autograd where ``detach`` says so."""
        if self.detach:
            t = t.detach()
        if self.hold == "reference":
            return Held(t, private=False)
        if self.hold == "cpu" and t.device.type != "cpu":
            return Held(t.to("cpu").contiguous(), private=True)
        return Held(t.clone(memory_format=torch.contiguous_format), private=True)

    def mask(self, t: Tensor) -> Held:
        """A mask: the same object for the same tensor, so that what is made of it is made once."""
        version = -1 if t.is_inference() else t._version
        key = (t.data_ptr(), t.shape, t.stride(), t.dtype, t.device, t.requires_grad, version)
        found = next((each for each in self._latest if each[0] == key and not each[1].modified), None)
        if found is None:
            held = self.tensor(t)
            # The original of a copy lives as long as it can be found: nothing else can lie at its address meanwhile.
            found = key, held if self.hold == "reference" else Held(t.detach(), private=False), held
        # Where nothing else keeps it, the next layer still finds it.
        self._latest = [found, *(each for each in self._latest if each is not found)][:LATEST]
        return found[2]

    def close(self) -> None:
        """Let go of what only the next layer would have needed."""
        self._latest = []


@torch.no_grad()
def fingerprint(t: Tensor) -> tuple[int, ...]:
    """Two integers that change when the tensor does, but for a coincidence: its bits summed along rows and columns.

    One sum sees what another would miss, as two numbers that change places in a row. No copy of the tensor is made.
    """
    t = narrowed(t)
    if t.numel() == 0:
        return ()
    t = torch.view_as_real(t) if t.is_complex() else t
    t = t if t.dim() > 1 else t.reshape(1, -1)
    bits = t.view(INTEGERS[t.element_size()])
    with suppress(RuntimeError):
        bits = t.view(torch.int64)  # several numbers at once, where they lie so
    return _mixed(bits.sum(-1, dtype=torch.int64)), _mixed(bits.sum(-2, dtype=torch.int64))


def _mixed(sums: Tensor) -> int:
    """Sums and their places as one number, in arithmetic modulo 2^64."""
    return int((sums.reshape(-1) * _odd(sums.numel(), sums.device)).sum())


def _odd(n: int, device: torch.device) -> Tensor:
    """Odd numbers that differ from place to place in all bits, (n,)."""
    place = torch.arange(1, n + 1, device=device) * -7046029254386353131
    return (place ^ (place >> 31)) * -4658895280553007687 | 1


def narrowed(t: Tensor) -> Tensor:
    """The tensor with the axes along which it was expanded cut to 1."""
    for axis, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        if stride == 0 and size > 1:
            t = t.narrow(axis, 0, 1)
    return t


def split(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """A float mask as (what may be read, what is added): None where all may be, and where nothing is."""
    added = mask.to(dtype)
    # Half of the least number: masks are added to each other, and to scores, before the softmax. NaN does not forbid.
    forbidden = (mask <= torch.finfo(mask.dtype).min / 2) | (added <= torch.finfo(dtype).min / 2)
    allowed = ~forbidden
    added = added.masked_fill(forbidden, 0)
    return None if bool(allowed.all()) else allowed, added if added.requires_grad or bool(added.any()) else None
