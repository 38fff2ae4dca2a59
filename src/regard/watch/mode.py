"""What stands between a model and torch while somebody watches: one mode a thread, heard by all who watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch.fx import Proxy
from torch.overrides import TorchFunctionMode

from regard.watch.calls import Call
from regard.watch.names import Stack, caller

__all__ = ["HANDLERS", "Interceptor", "Listener", "current", "leave", "listen"]


class Listener(Protocol):
    """Who is told of calls."""

    def listening(self) -> bool:
        """Whether this forward is one that is looked at."""

    def hear(self, call: Call, stack: Stack) -> None:
        """A call of attention, and the modules around it."""

    def hear_softmax(self, stack: Stack) -> None:
        """A softmax of attention's shape that somebody computed by hand."""


class _Local(threading.local):
    interceptor: Interceptor | None = None


_LOCAL = _Local()


class _Uncompiled:
    """Compiled code runs uncompiled, in the whole process, from the first thread that watches to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._stance = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._stance.close()


_UNCOMPILED = _Uncompiled()

#: What is looked at, and by whom: a function of (interceptor, the function called, args, kwargs).
HANDLERS: dict[Any, Callable[[Interceptor, Any, tuple[Any, ...], dict[str, Any]], Any]] = {}


class Interceptor(TorchFunctionMode):
    """Sees every call of a torch function in this thread, and passes on those of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Listener] = []
        self.open = ExitStack()
        self.count = 0
        self._muted = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count += 1
        try:
            handler = HANDLERS.get(func)
        except TypeError:  # not hashable: somebody's own callable
            handler = None
        if handler is None or self._muted or _traced(args, kwargs):
            return func(*args, **kwargs)
        return handler(self, func, args, kwargs)

    @property
    def listening(self) -> bool:
        """Whether anybody is told of a call that runs now; not in a backward pass, where checkpoints run again."""
        return (
            not self._muted
            and torch._C._current_graph_task_id() == -1
            and any(listener.listening() for listener in self.listeners)
        )

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Let everything pass."""
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def tell(self, call: Call, *, depth: int = 1) -> None:
        """Tell all who listen of a call, made ``depth`` frames outside of who tells."""
        stack = Stack(caller(depth))
        with self.muted():
            for listener in self.listeners:
                if listener.listening():
                    listener.hear(call, stack)

    def tell_softmax(self, stack: Stack) -> None:
        """Tell all who listen of a softmax by hand in the innermost of these modules."""
        for listener in self.listeners:
            if listener.listening():
                listener.hear_softmax(stack)


def _traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call is one that somebody writes down, with no numbers in it or with calls of the tracer's own."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return any(isinstance(a, Proxy) for a in (*args, *kwargs.values()))


def current() -> Interceptor | None:
    """This thread's interceptor, if anybody watches."""
    return _LOCAL.interceptor


def listen(listener: Listener) -> int:
    """Tell ``listener`` of every call in this thread, from now on; how many torch functions ran before."""
    from regard.watch import flash

    interceptor = _LOCAL.interceptor
    if interceptor is None:
        interceptor = Interceptor()
        with ExitStack() as opening:
            # Compiled code calls no torch functions, and what is compiled under a mode is compiled for it.
            opening.enter_context(_UNCOMPILED)
            opening.enter_context(flash.replaced())
            opening.enter_context(interceptor)
            interceptor.open = opening.pop_all()
        _LOCAL.interceptor = interceptor
    interceptor.listeners.append(listener)
    return interceptor.count


def leave(listener: Listener) -> int:
    """No longer; with the last one everything is as it was. How many torch functions have run."""
    interceptor = _LOCAL.interceptor
    if interceptor is None or listener not in interceptor.listeners:
        raise RuntimeError("this watch was opened in another thread, whose calls it sees; leave its block there")
    interceptor.listeners = [other for other in interceptor.listeners if other is not listener]
    if not interceptor.listeners:
        _LOCAL.interceptor = None
        interceptor.open.close()
    return interceptor.count
