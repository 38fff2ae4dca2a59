"""Which module called: the Python stack, read outward, and the names that a model gives to its modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import FrameType

from torch import nn

__all__ = ["NO_MODULE", "ROOT", "Names", "Stack", "matches"]

NO_MODULE = "(no module)"
ROOT = "(model)"

# The one frame that every call of a module has. Its locals are what its caller passed, which lives as long as it: to
# read them keeps nothing alive that would have died.
CALL = nn.Module._call_impl.__code__
# Frames of torch and of regard that stand between a module and what it called.
BETWEEN = ("torch.nn.functional", "torch.overrides", "torch.nn.attention", "torch._", "torch.utils", "regard.")
# What wraps a module without being of the model.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


class Stack:
    """The modules around a call, innermost first; read as far as somebody asks."""

    def __init__(self, frame: FrameType | None, *, skip: tuple[type, ...] = ()) -> None:
        self._found: list[nn.Module] = []
        self._rest = _walk(frame, skip)

    def __iter__(self) -> Iterator[nn.Module]:
        place = 0
        while True:
            if place == len(self._found):
                module = next(self._rest, None)
                if module is None:
                    return
                self._found.append(module)
            yield self._found[place]
            place += 1

    @property
    def outermost(self) -> nn.Module | None:
        """The module that everything else ran in."""
        module = None
        for module in self:  # noqa: B007
            pass
        return module


# Not a method: a generator that holds what holds it would keep the frames, and what is in them, until the next
# collection.
def _walk(frame: FrameType | None, skip: tuple[type, ...]) -> Iterator[nn.Module]:
    called = False
    passed: list[nn.Module] = []  # handed to a function, which counts if a module called that function
    while frame is not None:
        code = frame.f_code
        module = None
        if code is CALL:
            called = True
            module = frame.f_locals.get("self")
        elif not called and code.co_argcount and not frame.f_globals.get("__name__", "").startswith(BETWEEN):
            module = frame.f_locals.get(code.co_varnames[0])
            if isinstance(module, nn.Module) and code.co_varnames[0] != "self":
                passed.append(module)
                module = None
        if isinstance(module, nn.Module):
            for each in (*passed, module):
                if not isinstance(each, skip):
                    yield each
            passed = []
        frame = frame.f_back


class Names:
    """The qualified names of a model's modules."""

    def __init__(self, model: nn.Module) -> None:
        # The modules themselves too: while they are here, their ids are theirs.
        self.model = model
        self._names: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(id(module), []).append(plain(name))

    def __iter__(self) -> Iterator[str]:
        for names in self._names.values():
            yield from names

    def find(self, stack: Stack) -> tuple[str, nn.Module] | None:
        """The name of the innermost module that is of this model; None if no module around is.

        A module that stands in several places has several names: the one that lies in the module it was called from,
        or else the first.
        """
        inner: tuple[nn.Module, list[str]] | None = None
        for module in stack:
            names = self._names.get(id(module))
            if names is None:
                continue
            if inner is None:
                if len(names) == 1:
                    return names[0], module
                inner = module, names
                continue
            within = [name for name in inner[1] if any(lies_in(name, outer) for outer in names)]
            inner = inner[0], within or inner[1]
            if len(within) == 1:
                break
        return None if inner is None else (inner[1][0], inner[0])


def plain(name: str) -> str:
    """A qualified name without the wrappers that compiling and checkpointing put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or ROOT


def lies_in(name: str, outer: str) -> bool:
    """Whether a module of that name is inside of the other."""
    return outer == ROOT or name == outer or name.startswith(f"{outer}.")


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches the name, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(len(parts), 0, -1))


def caller(depth: int = 0) -> FrameType:
    """The frame ``depth`` calls outside of the function that asks."""
    return sys._getframe(depth + 1)
