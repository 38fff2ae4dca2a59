"""An attention that can be asked: what it is called, how it is called, what it offers and what it promises."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.deadline import OutOfTime, deadline
from regard.check.definition import Core, define
from regard.check.guard import Findings, SubjectError, describe, guarded
from regard.check.request import Answer, Request, Sizes
from regard.check.state import seed_torch
from regard.check.violation import Unsupported, Violation

__all__ = ["Subject"]


class Subject(abc.ABC):
    """Base of adapted functions and modules. Tensors are canonical on this side, the subject's own on the other.

    Args:
        name: how it is called in reports and snippets.
        declared: the conventions that its author declares.
        device: where inputs are made.
        dtype: of the inputs, unless a property asks for another.
        seconds: the time limit of one call.
    """

    kind = "function"

    def __init__(
        self, name: str, declared: Contract, *, device: torch.device, dtype: torch.dtype, seconds: float
    ) -> None:
        self.name = name
        self.declared = declared
        self.contract = declared
        self.device = device
        self.dtype = dtype
        self.seconds = seconds
        self.origin = ""
        self.sizes = Sizes()
        self.usual = Sizes()  # where conventions and features are tried: larger than sizes that can tell little
        self.findings = Findings()
        self.notes: list[str] = []
        self.last: Request | None = None
        self._reasons: dict[str, str | None] = {}
        self._limit: Subject | None = None
        self._calls = 0

    # -- what an adapter provides ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def make(self, at: Sizes, seed: int, *, size: float = 1.0, dtype: torch.dtype | None = None) -> Request:
        """Random inputs of these sizes: normal numbers times ``size``, the same for the same seed."""

    @abc.abstractmethod
    def raw(self, request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
        """The call that this question becomes, and the tensors it may not write to."""

    @abc.abstractmethod
    def read(self, raw: Any, request: Request) -> Answer:
        """What came back, in canonical form."""

    @abc.abstractmethod
    def imagine(self, core: Core, request: Request) -> Tensor:
        """What this subject would answer, in float64, if its attention were ``core``."""

    @abc.abstractmethod
    def spell(self, request: Request) -> str:
        """The call as its user would write it."""

    @abc.abstractmethod
    def probe(self, feature: str) -> str | None:
        """None where the feature works, otherwise the reason why not."""

    # -- what properties use ---------------------------------------------------------------------------------------

    def ask(self, request: Request, *, seed: int | None = None) -> Answer:
        """One guarded call.

        Args:
            request: what is asked.
            seed: of the global generator during the call; another one at each call if None, so that randomness which
                nobody asked for shows.

        Raises:
            SubjectError: whatever it raised.
            Violation: for an output that is no tensor, or of a shape that no layout explains.
        """
        self._calls += 1
        self.last = request
        call, inputs = self.raw(request)
        seed_torch(7919 * self._calls + 1 if seed is None else seed)
        raw = guarded(call, inputs, self.seconds, self.findings)
        return self._read(raw, request)

    def _read(self, raw: Any, request: Request) -> Answer:
        """What came back; reading it may run the subject's own code, that of a lazy map of weights for one."""
        try:
            with deadline(self.seconds):
                answer = self.read(raw, request)
        except OutOfTime:
            self.findings.hangs += 1
            raise SubjectError("time", f"what it returned was not read within {self.seconds:g} s") from None
        except (Violation, Unsupported, SubjectError):
            raise
        except Exception as error:
            raise Violation(f"what it returned cannot be read: {describe(error)}", request=request) from error
        wanted = request.query.dtype
        if not answer.output.is_floating_point():
            got = answer.output.dtype
            raise Violation(f"output is {got} for inputs of {wanted}", request=request, got=got, wanted=wanted)
        return answer

    def answers(self, request: Request, *, seed: int | None = None) -> Answer:
        """As :meth:`ask`; an error of the subject is a :class:`Violation`: it was shown to support this before.

        "Not implemented" is the exception: that is a subject's honest word for what it does not offer.
        """
        try:
            return self.ask(request, seed=seed)
        except SubjectError as error:
            if isinstance(error.cause, NotImplementedError):
                raise Unsupported(str(error)) from error
            raise Violation(f"raises {error}" if error.kind == "raised" else str(error), request=request) from error

    def numbers(self, request: Request, *, seed: int | None = None) -> Tensor:
        """What :meth:`truth` is compared with: the output, unless an adapter looks closer."""
        return self.answers(request, seed=seed).output

    def fits(self, at: Sizes) -> Sizes:
        """These sizes; :class:`Unsupported` where a plain call of them raises, as kernels for few sizes honestly do."""
        if self._limit is not None:
            self._limit.fits(at)
        key = f"sizes {at}"
        if key not in self._reasons:
            try:
                self.ask(self.make(at, seed=11))
                self._reasons[key] = None
            except SubjectError as error:
                self._reasons[key] = f"{at}: {'raises ' if error.kind == 'raised' else ''}{error}"
            except Unsupported as error:
                self._reasons[key] = f"{at}: {error}"
            except Violation:
                self._reasons[key] = None  # it answers, with something that is wrong: the property will tell
        self.require(key)
        return at

    def supports_sizes(self, at: Sizes) -> bool:
        """Whether :meth:`fits` would return."""
        try:
            self.fits(at)
        except Unsupported:
            return False
        return True

    def truth(self, request: Request) -> Tensor:
        """The float64 definition's answer, under this subject's conventions."""
        return self.imagine(define, request)

    def yardstick(self, core: Core, request: Request) -> Tensor:
        """What ``core`` gives in the precision of the request, as this subject would return it."""
        return core(request, self.contract)

    @contextlib.contextmanager
    def held(self, rate: float) -> Iterator[None]:
        """Set a module's dropout rate once, for all calls inside, and not anew for each."""
        yield

    def require(self, feature: str) -> None:
        """Raise :class:`Unsupported` with the reason where the feature is not offered."""
        if feature not in self._reasons:
            self._reasons[feature] = self.probe(feature)
        reason = self._reasons[feature]
        if reason is not None:
            raise Unsupported(reason)

    def limited_to(self, other: Subject, *, sizes: bool) -> None:
        """Offer nothing that another subject was found not to offer, and with ``sizes`` none that it cannot take."""
        reasons = {feature: reason for feature, reason in other._reasons.items() if reason is not None}
        self._reasons |= {feature: reason for feature, reason in reasons.items() if not feature.startswith("sizes ")}
        self._limit = other if sizes else None

    def supports(self, feature: str) -> bool:
        """Whether the feature is offered."""
        try:
            self.require(feature)
        except Unsupported:
            return False
        return True
