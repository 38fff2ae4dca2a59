"""Makes records of the calls that are heard: whose they are, whether they are wanted, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from regard.watch.calls import Call
from regard.watch.errors import no_match
from regard.watch.held import Holder
from regard.watch.kept import Kept
from regard.watch.names import NO_MODULE, Names, Stack, matches
from regard.watch.record import Record

__all__ = ["Question", "Recorder"]

Question = str | tuple[Any, ...] | Callable[..., Any]


class Counting:
    """Counts the forwards of a model for a recorder; on a copy of the model it does nothing."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = None if recorder is None else ref(recorder)

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():  # what traces the model cannot trace this
            return
        recorder = None if self._recorder is None else self._recorder()
        if recorder is not None and torch._C._current_graph_task_id() == -1:
            recorder.forwards += 1

    def __reduce__(self) -> tuple[type[Counting], tuple[()]]:
        return Counting, ()


class Recorder:
    """Hears calls and makes records of them."""

    def __init__(
        self,
        model: nn.Module | None,
        *,
        patterns: Sequence[str] | None,
        keep: Sequence[Question] | None,
        every: int,
        holder: Holder,
    ) -> None:
        self.model = model
        self.patterns = patterns
        self.keep = keep
        self.every = every
        self.holder = holder
        self.records: list[Record] = []
        self.forwards = 0
        self.heard = False
        self.by_hand: dict[str, None] = {}
        self.elsewhere: dict[str, None] = {}
        self.filtered: dict[str, None] = {}
        self._names = None if model is None else Names(model)
        self._roots: WeakKeyDictionary[nn.Module, Names] = WeakKeyDictionary()
        self._calls: Counter[str] = Counter()
        self._latest: dict[str, Kept] = {}
        self._counter: RemovableHandle | None = None
        if self._names is not None and patterns is not None:
            for pattern in patterns:
                if not any(matches(name, pattern) for name in self._names):
                    raise ValueError(no_match(pattern, self._names))

    def start(self) -> None:
        """Begin to count forwards."""
        if self.model is not None:
            self._counter = self.model.register_forward_pre_hook(Counting(self))

    def stop(self) -> None:
        """Leave the model as it was, and let go of it."""
        if self._counter is not None:
            self._counter.remove()
        self._counter = self.model = self._names = None
        self._roots = WeakKeyDictionary()
        self._latest = {}
        self.holder.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is of what was recorded: it listens to nothing.
        gone: dict[str, Any] = {"model": None, "_names": None, "_counter": None, "_roots": None, "_latest": {}}
        return {**self.__dict__, **gone}

    @property
    def step(self) -> int:
        """Which forward of the model runs, from 0."""
        return max(0, self.forwards - 1)

    def listening(self) -> bool:
        """Whether this forward is recorded."""
        return self.step % self.every == 0

    def hear(self, call: Call, stack: Stack) -> None:
        """Make a record of a call, if it is one of the model's, and wanted."""
        self.heard = True
        found = self._find(stack, call)
        if found is None:
            return
        name, module_type = found
        if not self._wanted(name):
            self.filtered[name] = None
            return
        count = self._calls[name]
        self._calls[name] += 1
        kept = Kept.of(call, self.holder, None if self.keep is not None else self._latest.get(name))
        statistics = None
        if self.keep is not None and call.refusal is None:
            try:
                statistics = self._answers(kept)
            except NotImplementedError as error:  # known only now; the model goes on, and the record says why
                kept = Kept.of(replace(call, refusal=str(error)), self.holder, None)
            except (TypeError, ValueError, IndexError) as error:
                raise self._failed(error, name, count, kept) from error
        step = count if self._counter is None else self.step
        self.records.append(
            Record(name=name, module_type=module_type, step=step, call=count, kept=kept, statistics=statistics)
        )
        if self.keep is None and call.refusal is None:
            self._latest[name] = kept

    def hear_softmax(self, stack: Stack) -> None:
        """Remember who computed a softmax by hand."""
        self.heard = True
        found = self._find(stack)
        if found is not None and found[0] != NO_MODULE and self._wanted(found[0]):
            self.by_hand[found[0]] = None

    def _wanted(self, name: str) -> bool:
        """Whether modules= says so."""
        return self.patterns is None or any(matches(name, pattern) for pattern in self.patterns)

    def _find(self, stack: Stack, call: Call | None = None) -> tuple[str, str] | None:
        """The name and the class of the module that called; None if it is no part of the model."""
        names = self._names
        if names is None:
            root = stack.outermost
            if root is not None:
                names = self._roots.get(root)
                if names is None:
                    names = self._roots[root] = Names(root)
        found = None if names is None else names.find(stack)
        if found is not None:
            return found[0], type(found[1]).__name__
        innermost = next(iter(stack), None)
        if innermost is None:
            return NO_MODULE, ""
        if call is not None:
            self.elsewhere[type(innermost).__name__] = None
        return None

    def _answers(self, kept: Kept) -> dict[Any, Any]:
        """The questions and their answers, on the spot."""
        assert self.keep is not None
        with torch.no_grad():
            return dict(zip(self.keep, kept.weights().ask(*self.keep), strict=True))

    def _failed(self, error: Exception, name: str, number: int, kept: Kept) -> Exception:
        """The error of a question, which comes out of the model's forward, with the call and the question."""
        assert self.keep is not None
        which: Any = self.keep[0] if len(self.keep) == 1 else f"one of {list(self.keep)}"
        for question in self.keep:
            if self._fails(question, kept):
                which = question
                break
        size = " x ".join(map(str, kept.shape))
        words = f"watch(keep): {which!r} of call {number} of {name}, {kept.call.function}, {size}: {error}"
        return type(error)(words)

    def _fails(self, question: Question, kept: Kept) -> bool:
        """Whether it is this question that cannot be answered."""
        try:
            with torch.no_grad():
                kept.weights().ask(question)
        except (TypeError, ValueError, IndexError):
            return True
        return False
