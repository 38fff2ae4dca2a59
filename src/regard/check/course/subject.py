"""A submission as the checks see it: its names, and calls whose printing is heard and whose randomness is fixed."""

from __future__ import annotations

import contextlib
import difflib
import io
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from regard.check.course.registry import lose

__all__ = ["Subject"]

#: Of what a call prints, so many characters are kept.
HEARD = 200


class _Ear(io.TextIOBase):
    """Keeps the beginning of what is printed; a call may print without end."""

    def __init__(self) -> None:
        self.text, self.length = "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.length += len(text)
        self.text = (self.text + text)[:HEARD]
        return len(text)


class Subject:
    """A submission.

    Args:
        module: the submission, loaded.

    Attributes:
        heard: what the latest call printed, its beginning.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.heard = ""

    def get(self, name: str) -> Any:
        """What the submission calls by this name.

        Raises:
            Lost: if there is nothing of this name.
        """
        if not hasattr(self.module, name):
            public = [other for other in vars(self.module) if not other.startswith("_")]
            near = difflib.get_close_matches(name, public, n=1)
            hint = f"there is {near[0]}: is that the one?" if near else "is it in another file, or under another name?"
            lose(asked=f"something called {name}", came="nothing of that name", hint=hint)
        return getattr(self.module, name)

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something of the submission; what it prints goes to :attr:`heard`."""
        ear = _Ear()
        try:
            with contextlib.redirect_stdout(ear):
                return function(*args, **kwargs)
        finally:
            self.heard = ear.text

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the submission's function of this name."""
        return self.call(self.get(name), *args, **kwargs)

    def table(self, d_model: int, max_len: int) -> Any:
        """What ``PositionalEncoding(d_model, max_len).get_encoding()`` gives."""
        made = self.call(self.get("PositionalEncoding"), d_model, max_len)
        said = self.heard
        if not hasattr(made, "get_encoding"):
            lose(asked="a method get_encoding()", came=f"a {type(made).__name__} without one")
        value = self.call(made.get_encoding)
        self.heard = said + self.heard
        return value

    def layer(self, name: str, *sizes: int, seed: int = 0) -> nn.Module:
        """A layer of the submission, with the parameters that this seed gives."""
        kind = self.get(name)
        torch.manual_seed(seed)
        made = self.call(kind, *sizes)
        if not isinstance(made, nn.Module):
            lose(
                asked=f"{name} to be an nn.Module",
                came=f"a {type(made).__name__}",
                hint="where would an optimiser find its parameters?",
            )
        return made

    def output(self, function: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The output of an attention; of a tuple its first element, for which another check takes its point."""
        value = self.call(function, *args, **kwargs)
        if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
            value = value[0]
        if not isinstance(value, Tensor):
            lose(asked="a tensor", came=f"a {type(value).__name__}", hint="does every path end in a return?")
        return value
