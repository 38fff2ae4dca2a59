"""The functions of flash_attn, where it is loaded: no torch functions, and so replaced while somebody watches.

Every module that has bound one by its name gets a function that calls the original and tells of it, and gets the
original back in the end. Their causal masks are aligned so that the last query sees every key, as regard's are.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from regard.watch.flash_calls import CALLS
from regard.watch.handlers import unsuited
from regard.watch.mode import current

__all__ = ["replaced"]

PACKAGES = ("flash_attn", "flash_attn_interface")

_lock = threading.Lock()
_watches = 0
# One for each original, for good: a binding that is made while it stands in may live on.
_stand_ins: dict[int, Callable[..., Any]] = {}
_originals: dict[int, Callable[..., Any]] = {}


@contextmanager
def replaced() -> Iterator[None]:
    """Let the functions of flash_attn be heard, in all modules that have bound them."""
    global _watches  # noqa: PLW0603  the modules are of the process, and so is the number of those who watch
    with _lock:
        _watches += 1
        _prepare()
        _bind({id(_originals[key]): stand_in for key, stand_in in _stand_ins.items()})
    try:
        yield
    finally:
        with _lock:
            _watches -= 1
            if _watches == 0:
                _bind({id(stand_in): _originals[key] for key, stand_in in _stand_ins.items()})
                _stand_ins.clear()
                _originals.clear()


def _prepare() -> None:
    """A stand-in for each function that is loaded."""
    known = {id(stand_in) for stand_in in _stand_ins.values()}
    for package in PACKAGES:
        module = sys.modules.get(package)
        for name in CALLS:
            original = getattr(module, name, None)
            if original is not None and id(original) not in known | _stand_ins.keys():
                _stand_ins[id(original)] = _stand_in(name, original)
                _originals[id(original)] = original


def _bind(instead: dict[int, Any]) -> None:
    """Put functions in the place of others, by their ids, in every module."""
    if not instead:
        return
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict):
            continue
        for name, value in list(names.items()):
            if id(value) in instead:
                names[name] = instead[id(value)]


def _stand_in(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        interceptor = current()
        if interceptor is None or not interceptor.listening:
            return original(*args, **kwargs)
        with interceptor.muted():
            output = original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        unusual = {
            argument: value
            for argument, value in bound.arguments.items()
            if value is not signature.parameters[argument].default
        }
        call = CALLS[name](name, bound.arguments, unusual, unsuited)
        interceptor.tell(call, depth=2)
        return output

    return stand_in
