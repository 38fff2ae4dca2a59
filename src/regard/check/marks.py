"""One test a property, for pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regard.check.adapt import adapt, name_of
from regard.check.arguments import check_expected, check_subject
from regard.check.contract import Contract
from regard.check.registry import Property
from regard.check.repro import snippet
from regard.check.request import Sizes
from regard.check.runner import chosen
from regard.check.state import global_state, one_thread
from regard.check.subject import Subject
from regard.check.suites import suite_of
from regard.check.violation import Unsupported, Violation

__all__ = ["PropertyTest", "parametrize"]


class PropertyTest:
    """One property of one subject: call it in a test. It returns, raises AssertionError, or skips with the reason.

    Args:
        prop: the property.
        make: adapts the subject; called once for all its properties.
        seed: of the inputs.
        sizes: at which it runs; those of the adapted subject if None.
    """

    def __init__(self, prop: Property, make: Callable[[], Subject], seed: int, sizes: Sizes | None) -> None:
        self.property = prop
        self.make = make
        self.seed = seed
        self.sizes = sizes

    def __call__(self) -> None:
        """Run the property; a failure shows what is wrong and how to see it again, not how it was found."""
        __tracebackhide__ = True
        import pytest

        with global_state(), one_thread():
            subject = self.make()
            at = self.sizes or subject.sizes
            try:
                self.property.run(subject, at, self.seed)
            except Unsupported as reason:
                pytest.skip(str(reason))
            except Violation as violation:
                subject.origin = subject.origin or f"# {subject.name}: the subject of this test"
                repro = snippet(subject, violation, self.property.name, at, self.seed)
                raise AssertionError(f"{self.property.name}: {violation}\n\n{repro}") from None

    def __repr__(self) -> str:
        return f"PropertyTest({self.property.name})"


def parametrize(
    subjects: Sequence[Any],
    contract: Contract | None = None,
    *,
    argument: str = "check",
    suite: str | None = None,
    sizes: Sizes | None = None,
    only: Sequence[str] = (),
    thorough: bool = False,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """A pytest mark that runs a test once for each property of each subject, as "my_attention-custom_scale".

    ::

        @regard.check.parametrize([my_attention, MyLayer(64, 4)])
        def test_attention(check):
            check()

    What a subject does not offer is skipped with the reason. Names in ``expected`` are marked as strict xfails.

    Args:
        subjects: functions, modules or classes.
        contract: their declared conventions.
        argument: the name of the test's argument.
        suite: told from each subject if None.
        sizes: see :func:`regard.check`.
        only: names or groups of properties.
        thorough: also the slow ones.
        expected: property -> why it fails.
        seed: of the inputs.
        options: device, dtype, seconds: see :func:`regard.check`.

    Raises:
        TypeError: where ``subjects`` is no sequence of callables.
        ValueError: for a property or reason that does not exist or says nothing.
    """
    import pytest

    if callable(subjects) or not isinstance(subjects, Sequence):
        raise TypeError(f"subjects must be a list of functions, modules or classes, got {type(subjects).__name__}")
    cases = []
    names = _distinct([name_of(subject) for subject in subjects])
    for subject, name in zip(subjects, names, strict=True):
        check_subject(subject)
        which = suite or suite_of(subject)
        check_expected(expected or {}, [prop.name for prop in chosen(which, (), thorough=True)])
        make = _once(subject, contract, suite=which, sizes=sizes, name=name, **options)
        for prop in chosen(which, only, thorough=thorough):
            reason = (expected or {}).get(prop.name)
            marks = [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)] if reason else []
            case = PropertyTest(prop, make, seed, sizes)
            cases.append(pytest.param(case, id=f"{name}-{prop.name}", marks=marks))
    return pytest.mark.parametrize(argument, cases)


def _once(subject: Any, contract: Contract | None, **options: Any) -> Callable[[], Subject]:
    made: list[Subject] = []

    def make() -> Subject:
        if not made:
            made.append(adapt(subject, contract, **options))
        return made[0]

    return make


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}{n}" for n, name in enumerate(names)]
