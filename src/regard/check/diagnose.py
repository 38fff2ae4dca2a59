"""The likely bug: which named mutant gives the numbers that the subject gives."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.check.adapt import CannotAdapt, adapt
from regard.check.contract import REGARD
from regard.check.definition import causal_mask
from regard.check.guard import SubjectError
from regard.check.probe import both, empty_request, masked, pattern, unread_request
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation

if TYPE_CHECKING:
    from regard.check.mutants import Mutant
    from regard.check.registry import Property

__all__ = ["Diagnosis", "Elsewhere", "Suspects", "questions"]

CLOSE = 1e-4  # relative: mutants are evaluated in float64, the subject in its own precision
HALF_CLOSE = 3e-2
NOISE = "runs_twice_equal"


@dataclass(frozen=True)
class Diagnosis:
    """A mutant whose numbers are the subject's."""

    name: str
    says: str
    certain: bool
    sentence: str = ""

    def __str__(self) -> str:
        if self.sentence:
            return self.sentence
        return f"this is what you get from {self.says}" if self.certain else f"perhaps {self.says}"


class Elsewhere:
    """The same for suites whose mutants know themselves how to find the likely one, from all that a subject does.

    Args:
        subject: the subject.
        suite: "rotary" or "positions".
    """

    patience = 4.0

    def __init__(self, subject: Subject, suite: str) -> None:
        self.subject = subject
        self.module = importlib.import_module(f"regard.check.mutants.{suite}")
        self._found: list[str | None] = []

    def of(self, prop: Property, violation: Violation) -> Diagnosis | None:
        """The mutant that does what the subject does, whichever property fails."""
        if not self._found:
            with contextlib.suppress(Unsupported, SubjectError, Violation):
                self._found.append(self.module.likely(self.subject))
        says = self._found[0] if self._found else None
        wrong = getattr(self.module, "POSITION_MUTANTS", None) or self.module.ROTARY_MUTANTS
        names = [name for name, one in wrong.items() if one.says == says]
        return Diagnosis(names[0], says, certain=True, sentence=says) if says and names else None


class Suspects:
    """The mutants, held against one subject on a battery of questions; asked once, when something failed.

    Args:
        subject: the subject.
        mutants: the suspects.
        seed: of the inputs of the run.

    Attributes:
        patience: seconds that may still be spent on making failures small.
    """

    def __init__(self, subject: Subject, mutants: Iterable[Mutant], seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.patience = 4.0
        self.noisy = False
        self._words: dict[tuple[str, str], str | None] = {}
        self.mutants = list(mutants)
        self._battery: list[tuple[Request, Tensor, Tensor]] | None = None

    def of(self, prop: Property, violation: Violation) -> Diagnosis | None:
        """The mutant that explains a failure.

        First those whose numbers are the subject's at the very question that failed and which agree with it on most
        others; then those that break this property in the same words: what is left behind, drawn or differentiated
        does not show in the numbers of one answer.

        Args:
            prop: the property that fails.
            violation: how.
        """
        if self.noisy and prop.name != NOISE:
            return None  # what is not the same twice explains everything, and nothing explains it
        self.noisy = self.noisy or prop.name == NOISE
        at_failure = self._asked(violation.request) if violation.request is not None else None
        best: tuple[float, Mutant] | None = None
        # Where the question cannot be asked again, because it raises or drops at random, no numbers convict.
        for mutant in self.mutants:
            score = self._score(mutant, at_failure) if at_failure is not None and mutant.core is not None else None
            if score is not None:
                score += 0.5 if mutant.aims == prop.name else 0.0
                if best is None or score > best[0]:
                    best = (score, mutant)
        if best is not None:
            return Diagnosis(best[1].name, best[1].says, certain=True)
        return self._in_the_same_words(prop, str(violation))

    def _in_the_same_words(self, prop: Property, message: str) -> Diagnosis | None:
        close: Mutant | None = None
        for mutant in self.mutants:
            if mutant.aims != prop.name:
                continue
            said = self._said(prop, mutant)
            if said is None:
                continue
            if said == message:
                return Diagnosis(mutant.name, mutant.says, certain=True)
            # Numbers that are off are off in the same words whatever the bug is.
            if close is None and "off by" not in message and _words(said) == _words(message):
                close = mutant
        return None if close is None else Diagnosis(close.name, close.says, certain=False)

    def _said(self, prop: Property, mutant: Mutant) -> str | None:
        """How this mutant fails the property, at the subject's sizes; None where it does not, or is of another kind."""
        key = (prop.name, mutant.name)
        if key not in self._words:
            self._words[key] = None
            built = mutant.build()
            if isinstance(built, torch.nn.Module) == (self.subject.kind == "module"):
                with contextlib.suppress(Unsupported, SubjectError):
                    try:
                        adapted = adapt(built, REGARD, sizes=self.subject.sizes, device=self.subject.device)
                        prop.run(adapted, self.subject.sizes, self.seed)
                    except CannotAdapt:
                        pass
                    except AssertionError as violation:
                        self._words[key] = str(violation)
                    except Exception:  # a mutant at sizes that are not made for it explains nothing
                        pass
        return self._words[key]

    def _score(self, mutant: Mutant, at_failure: tuple[Request, Tensor, Tensor]) -> float | None:
        """How much of the battery it explains; None where it contradicts the failure or explains nothing."""
        same, wrong = self._compare(mutant, at_failure)
        if not (same and wrong):
            return None
        return float(sum(self._compare(mutant, asked)[0] for asked in self.battery()))

    def _compare(self, mutant: Mutant, asked: tuple[Request, Tensor, Tensor]) -> tuple[bool, bool]:
        """Whether its numbers are the subject's, and whether they are not the truth."""
        request, got, truth = asked
        assert mutant.core is not None
        try:
            given = self.subject.imagine(mutant.core, request).detach()
        except Exception:  # a mutant of grouped heads on heads that are not grouped
            return False, False
        return _near(got, given, request), not _near(truth, given, request)

    def battery(self) -> list[tuple[Request, Tensor, Tensor]]:
        """The questions, with the subject's answers and the true ones."""
        if self._battery is None:
            asked = (
                self._asked(request) for request in questions(self.subject, self.subject.usual, fits=self.subject.fits)
            )
            self._battery = [one for one in asked if one is not None]
        return self._battery

    def _asked(self, request: Request) -> tuple[Request, Tensor, Tensor] | None:
        request = request.map(lambda t: t.detach())
        if request.dropout:
            return None
        try:
            got = self.subject.numbers(request).detach().double()
            return request, got, self.subject.truth(request).detach()
        except (SubjectError, Violation, Unsupported):
            return None


def _words(message: str) -> str:
    """A message without its numbers."""
    return re.sub(r"\d[\d.e+-]*", "#", message)


def _near(one: Tensor, other: Tensor, request: Request) -> bool:
    if one.shape != other.shape:
        return False
    close = HALF_CLOSE if request.query.dtype in (torch.float16, torch.bfloat16) else CLOSE
    size = max(float(t[torch.isfinite(t)].abs().max()) if bool(torch.isfinite(t).any()) else 0.0 for t in (one, other))
    same = ((one - other).abs() <= close * size) | (one == other) | (one.isnan() & other.isnan())
    return bool(same.all())


def questions(subject: Subject, at: Sizes, *, fits: Callable[[Sizes], Sizes]) -> list[Request]:
    """One question for each kind of bug, as far as the subject has an argument for it.

    Args:
        subject: the subject.
        at: sizes of most of them.
        fits: these sizes, or :class:`Unsupported` where the subject cannot be called with them.
    """
    found: list[Request] = []

    def add(make) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(Unsupported, Violation, SubjectError, KeyError):
            found.append(make())

    add(lambda: subject.make(at, 21))
    add(lambda: subject.make(at, 22, size=3.0))
    add(lambda: subject.make(fits(replace(at, width=7, value_width=7)), 23))
    add(lambda: subject.make(fits(replace(at, key_len=at.key_len + 3)), 24))
    add(lambda: subject.make(fits(replace(at, batch=1, query_len=40, key_len=40)), 25))
    add(lambda: subject.make(fits(replace(at, heads=4, kv_heads=2)), 26))
    add(lambda: subject.make(at, 27, size=30.0))
    plain = subject.make(at, 28)
    if subject.supports("causal option"):
        found.append(plain.but(causal=True))
        if subject.supports("causal lengths"):
            found.append(subject.make(replace(at, key_len=at.key_len + 2), 29).but(causal=True))
    if subject.supports("uniform"):
        lower = causal_mask(at.query_len, at.key_len, None, device=subject.device)[None, None]
        found.append(plain.but(mask=lower))
    reaches = [reach for reach in ("uniform", "per sequence", "per head") if subject.supports(reach)]
    found += [plain.but(mask=pattern(subject, reach, plain, 3)) for reach in reaches]
    everyone = torch.ones(1, 1, at.query_len, at.key_len, dtype=torch.bool, device=subject.device)
    add(lambda: masked(subject, plain, everyone))
    add(lambda: both(subject, at)[0] if subject.supports("combined") else subject.make(at, 30))
    add(lambda: empty_request(subject, at)[0])
    if subject.contract.unread != "leaks":
        add(lambda: unread_request(subject, at).moved(at.key_len - 1, times=float("nan")))
    options = {"scale": 0.7, "softcap": 2.0, "window": 2}
    for name, value in options.items():
        if subject.supports(name):
            found.append(plain.but(**{name: value}, causal=name == "window" and subject.supports("causal option")))
    if subject.supports("bias"):
        bias = torch.linspace(-2, 2, at.query_len * at.key_len).view(1, 1, at.query_len, at.key_len)
        found.append(plain.but(bias=bias.to(plain.query)))
        if subject.supports("softcap"):
            found.append(plain.but(bias=bias.to(plain.query), softcap=2.0))
    return found
