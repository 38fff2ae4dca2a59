"""What keeps the figures of a training: where they go, what is remembered, what is warned of."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from regard.watch.api import watch
from regard.watch.errors import UncompiledWarning
from regard.watch.log_figures import Figures, Tally, summary
from regard.watch.log_history import History
from regard.watch.log_targets import To, targets
from regard.watch.seen import Seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Alarm", "AttentionAlarm", "Journal", "Journalled", "check_every", "is_main"]


class AttentionAlarm(UserWarning):
    """Entropy or a logit passed the bound that was set for it."""


@dataclass(frozen=True)
class Alarm:
    """A layer that passed a bound.

    Attributes:
        step: when.
        layer: which.
        figure: "entropy", the mean over the layer's heads, or "max_logit", the largest of them.
        value: what it was.
        bound: what was passed.
    """

    step: int
    layer: str
    figure: str
    value: float
    bound: float


class Journal:
    """Takes the figures of one step after the other."""

    def __init__(self, to: To | Sequence[To] | None, entropy_below: float | None, logit_above: float | None) -> None:
        for name, bound in (("entropy_below", entropy_below), ("logit_above", logit_above)):
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
                raise TypeError(f"{name}: expected a number or None, got {type(bound).__name__}")
        if entropy_below is not None and not 0 < entropy_below < 1:
            raise ValueError(
                f"entropy_below is {entropy_below}; expected a share of log(keys) between 0 and 1, such as 0.05"
            )
        if logit_above is not None and not logit_above > 0:
            raise ValueError(f"logit_above is {logit_above}; expected a positive logit, such as 100.0")
        self._targets = targets(to)
        self._entropy_below, self._logit_above = entropy_below, logit_above
        self._warned: set[tuple[str, str]] = set()
        self._told_of_compiled = False
        self.history = History()
        self.alarms: list[Alarm] = []

    @property
    def silent(self) -> bool:
        """Whether the figures go nowhere."""
        return not self._targets

    def begin(self, start: int, *, callback: bool = False) -> None:
        """Steps from ``start`` on come next; a file that exists gives those before."""
        old = [target.begin(start, callback=callback) for target in self._targets]
        self.history = History(max(old, key=len, default=[]))

    def watching(self, model: nn.Module | None, modules: str | Sequence[str] | None) -> Seen:
        """The watch of a step, or of a part of it; that the model is compiled is said the first time."""
        with warnings.catch_warnings() if self._told_of_compiled else nullcontext():
            if self._told_of_compiled:
                warnings.simplefilter("ignore", UncompiledWarning)
            seen = watch(model, modules=modules, keep=[summary])
        self._told_of_compiled = True
        return seen

    def write(self, step: int, tally: Tally, *, writes: bool) -> None:
        """Take the figures of a step; ``writes`` is for one process of several."""
        if not writes:
            return
        figures = tally.figures(step)
        for target in self._targets:
            target.write(figures)
        self.history.add(figures)
        self._look_for_alarms(figures)

    def close(self) -> None:
        """Close what was opened."""
        for target in self._targets:
            target.close()

    def _look_for_alarms(self, figures: Figures) -> None:
        for layer in figures.layers:
            told = layer.summary()
            if self._entropy_below is not None:
                bound = self._entropy_below * math.log(max(2, layer.keys))
                # Not `value < bound`: a NaN is to be heard.
                if not told["entropy"] >= bound:
                    self._sound(Alarm(figures.step, layer.name, "entropy", told["entropy"], bound))
            if self._logit_above is not None and not told["max_logit"] <= self._logit_above:
                self._sound(Alarm(figures.step, layer.name, "max_logit", told["max_logit"], self._logit_above))

    def _sound(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)
        if (alarm.layer, alarm.figure) in self._warned:
            return
        self._warned.add((alarm.layer, alarm.figure))
        what = "mean entropy" if alarm.figure == "entropy" else "largest logit"
        side = "below" if alarm.figure == "entropy" else "above"
        warnings.warn(
            f"step {alarm.step}: the {what} of {alarm.layer} is {alarm.value:.4g}, {side} {alarm.bound:.4g}; said once "
            "a layer, and log.alarms has all",
            AttentionAlarm,
            stacklevel=5,
        )


class Journalled:
    """What a log and the callbacks show of their journal."""

    _journal: Journal

    @property
    def history(self) -> History:
        """The steps logged."""
        return self._journal.history

    @property
    def alarms(self) -> list[Alarm]:
        """What passed a bound."""
        return self._journal.alarms

    def plot(self) -> Figure:
        """The figures over the steps, one line a layer; as :meth:`regard.watch.History.plot`."""
        return self.history.plot()


def check_every(every: int) -> None:
    """A whole number of steps."""
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"every: expected a whole number of steps, got {type(every).__name__}")
    if every < 1:
        raise ValueError(f"every is {every}; expected at least 1, every step")


def is_main() -> bool:
    """Whether this process is the one of several that writes: rank 0, or the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    # Before the group is there, torchrun has said which one this is.
    return os.environ.get("RANK", "0") == "0"
