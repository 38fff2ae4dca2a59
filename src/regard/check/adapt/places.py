"""Something that knows positions, asked: what sinusoidal and rotary subjects have in common."""

from __future__ import annotations

import copy
import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.check.adapt.construct import CannotAdapt
from regard.check.adapt.names import CONSTRUCTOR, role_of
from regard.check.contract import Contract
from regard.check.guard import SubjectError
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["BASES", "LENGTHS", "PlaceSubject", "Places", "apart", "is_function", "number_of", "place_role", "short"]

LENGTHS = (
    *CONSTRUCTOR["length"],
    "length", "l", "n", "maxlen", "seqlen", "seq_length", "n_positions", "n_position", "num_positions", "position",
    "pos", "positions", "max_position", "max_positions", "seq", "num_embeddings", "t", "max_size", "steps", "end",
)  # fmt: skip
WIDTHS = (*CONSTRUCTOR["head_width"], *CONSTRUCTOR["width"], "depth", "rotary_dim", "rot_dim", "dims", "size", "d_rot")
BASES = ("base", "theta", "rope_theta", "rotary_base", "rope_base", "freq_base", "rotary_emb_base")
MOST = 4096  # positions that are asked for only to be more than before
SPARE = 64  # positions that an instance is made for at least


def place_role(name: str) -> str | None:
    """The role of an argument of a constructor, or of a function that makes a table.

    >>> place_role("d_model"), place_role("max_len"), place_role("rope_theta"), place_role("colour")
    ('width', 'length', 'base', None)
    """
    plain = name.lower().strip("_")
    for role, names in (("width", WIDTHS), ("length", LENGTHS), ("base", BASES)):
        if plain in names:
            return role
    return role_of(name, CONSTRUCTOR)


def number_of(thing: Any, names: tuple[str, ...]) -> float | None:
    """The first attribute with one of these names that is a number."""
    for name in names:
        found = getattr(thing, name, None)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
    return None


def is_function(thing: Any) -> bool:
    """Whether it is a function, with some of its arguments given or not."""
    return inspect.isroutine(thing) or isinstance(thing, functools.partial)


def apart(result: Any, inputs: tuple[Tensor, ...]) -> Any:
    """The result, copied where it is one of the inputs: what was written there is undone after the call."""
    if isinstance(result, Tensor):
        taken = {t.untyped_storage().data_ptr() for t in inputs}
        return result.clone() if result.untyped_storage().data_ptr() in taken else result
    if isinstance(result, tuple | list):
        return [apart(each, inputs) for each in result]
    return result


def short(dtype: torch.dtype) -> str:
    """float32, without its module."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Places(Request):
    """What is asked of something that knows positions; query is x, (B, H, L, D) or (B, 1, L, d).

    Args:
        start: the position of the first row.
        table: the table itself is asked for, of the length and width of x.
        limit: for how many positions the instance is made; as many as are asked for if 0.
        cast: the dtype that the module is converted to before it is asked.
        base: what an instance is made with, its own default if None.
    """

    start: int = 0
    table: bool = False
    limit: int = 0
    cast: torch.dtype | None = None
    base: float | None = None

    @property
    def positions(self) -> Tensor:
        """(L,)."""
        return torch.arange(self.start, self.start + self.query_len, device=self.query.device)


class PlaceSubject(Subject):
    """Base of what is made for a width and a number of positions, and asked in order: a class, an instance, a function.

    Args:
        thing: it.
        name: in reports.
        declared: the author's conventions.
        options: device, dtype and seconds, see :class:`Subject`.

    Attributes:
        longest: the most positions that were asked for.
        fixed_width: of an instance, 0 where any width can be asked for.
        max_len: how many positions an instance has, 0 where that is not known.
    """

    def __init__(self, thing: Any, name: str, declared: Contract, **options: Any) -> None:
        super().__init__(name, declared, **options)
        self.thing = thing
        self.is_class = inspect.isclass(thing)
        self.is_module = issubclass(thing, nn.Module) if self.is_class else isinstance(thing, nn.Module)
        self.kind = "module" if self.is_class or self.is_module else "function"
        self.longest = 0
        self.fixed_width = 0
        self.max_len = 0
        self._roles = self._constructor() if self.is_class else {}
        self._live: dict[tuple[Any, ...], Any] = {}

    def _constructor(self) -> dict[str, str]:
        """Role -> the name of a constructor's argument."""
        try:
            parameters = inspect.signature(self.thing).parameters.values()
        except (TypeError, ValueError):
            return {}
        found: dict[str, str] = {}
        for parameter in parameters:
            role = place_role(parameter.name)
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if role is None and parameter.default is parameter.empty:
                raise CannotAdapt(f"{self.name}({parameter.name}=): no value for it is known; pass an instance")
            if role is not None and (role not in found or parameter.default is parameter.empty):
                found.setdefault(role, parameter.name)
        return found

    @property
    def has_limit(self) -> bool:
        """Whether it is made for a number of positions."""
        return "length" in self._roles

    def arguments(self, request: Places) -> dict[str, Any]:
        """What its constructor is given."""
        limit = request.limit or max(SPARE, request.start + request.query_len)
        values: dict[str, Any] = {
            "width": request.query.shape[-1], "length": limit, "dropout": 0.0, "heads": 1, "batch_first": True,
            "flag": True, "head_width": request.query.shape[-1],
        }  # fmt: skip
        if request.base is not None:
            values["base"] = request.base
        return {name: values[role] for role, name in self._roles.items() if role in values}

    def live(self, request: Places) -> Any:
        """What is asked: made once for a width, a limit and a dtype, and then kept, with whatever it remembers."""
        if is_function(self.thing):
            return self.thing
        arguments = tuple(self.arguments(request).items()) if self.is_class else ()
        key = (arguments, request.cast)
        if key not in self._live:
            if self.is_class:
                self._live[key] = self._ready(self.thing(**self.arguments(request)), request)
            else:
                try:
                    own = copy.deepcopy(self.thing)
                except Exception:
                    own = self.thing
                self._live[key] = self._ready(own, request)
        return self._live[key]

    def _ready(self, made: Any, request: Places) -> Any:
        if isinstance(made, nn.Module):
            made = made.to(self.device).eval()
            if request.cast is not None:
                made = made.to(request.cast)
        return made

    def renew(self) -> None:
        """Forget the instances, and with them what they remember."""
        self._live.clear()

    def length(self, wanted: int) -> int:
        """As many positions as wanted, or as many as there are."""
        return min(wanted, self.max_len) if self.max_len and not self.has_limit else wanted

    def longer(self, at: Sizes) -> int:
        """More positions than were ever asked for, so that what is remembered does not do."""
        return self.length(max(2 * at.query_len, self.longest + 3 if self.longest < MOST else 0))

    def even_width(self, at: Sizes) -> int:
        """The width asked for, as an even one: odd ones have a property of their own."""
        return self.fixed_width or at.width + at.width % 2

    def quietly(self, request: Places) -> Tensor | None:
        """The output, or None where that is not taken."""
        try:
            return self.ask(request).output.detach()
        except (SubjectError, Violation):
            return None

    def remark(self, text: str) -> None:
        """Add a sentence to the notes, once."""
        if text not in self.notes:
            self.notes.append(text)

    def spell_made(self, request: Places) -> str:
        """The instance, as text."""
        if not self.is_class:
            return self.name
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments(request).items())})"

    def normal(
        self, shape: tuple[int, ...], seed: int, dtype: torch.dtype, size: float = 1.0
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Normal numbers, and the lines that make them."""
        generator = torch.Generator().manual_seed(seed)
        times = "" if size == 1 else f"{size:g} * "
        lines = (
            f"g = torch.Generator().manual_seed({seed})",
            f"q = ({times}torch.randn({shape}, generator=g)).to({str(self.device)!r}, {dtype})",
        )
        return (size * torch.randn(shape, generator=generator)).to(self.device, dtype), lines
