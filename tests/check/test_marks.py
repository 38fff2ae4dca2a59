"""parametrize(): one test a property, run by pytest itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from regard import check

FILE = """
    import pytest, torch, regard

    def attention(q, k, v, mask=None):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v

    def unscaled(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    def same(q, k, v):
        return attention(q, k, v)

    def raising(q, k, v):
        raise ValueError("no")

    first = same

    def same(q, k, v):
        return attention(q, k, v)

    ONLY = ["matches_definition", "custom_scale"]

    @regard.check.parametrize([attention, torch.nn.MultiheadAttention(24, 3, batch_first=True)], only=ONLY)
    def test_right(check):
        check()

    @regard.check.parametrize([unscaled], only=ONLY)
    def test_wrong(check):
        check()

    @regard.check.parametrize([unscaled], only=ONLY, expected={"matches_definition": "no scale, on purpose"})
    def test_expected(check):
        check()

    @regard.check.parametrize([attention], only=ONLY, expected={"matches_definition": "mended since"})
    def test_unexpected(check):
        check()

    @regard.check.parametrize([first, same], only=["matches_definition"], argument="prop")
    def test_two_of_a_name(prop):
        prop()

    @regard.check.parametrize([raising], only=["matches_definition"])
    def test_raising(check):
        check()
"""


def test_what_pytest_makes_of_it(tmp_path):
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(FILE))
    command = [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider", "-c", "/dev/null", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()

    def outcome(name: str) -> str:
        (line,) = [line for line in lines if line.startswith(f"test_mine.py::{name} ")]
        return line.split()[1]

    assert done.returncode == 1
    assert outcome("test_right[attention-matches_definition]") == "PASSED"
    assert outcome("test_right[attention-custom_scale]") == "SKIPPED"
    assert outcome("test_right[MultiheadAttention-matches_definition]") == "PASSED"
    assert outcome("test_wrong[unscaled-matches_definition]") == "FAILED"
    assert outcome("test_expected[unscaled-matches_definition]") == "XFAIL"
    assert outcome("test_unexpected[attention-matches_definition]") == "FAILED"
    assert outcome("test_two_of_a_name[same0-matches_definition]") == "PASSED"
    assert outcome("test_two_of_a_name[same1-matches_definition]") == "PASSED"
    # What failed and how to see it again, and not how it was found.
    assert "properties.check_matches_definition(unscaled, " in done.stdout
    assert "violation.py" not in done.stdout
    assert "it has no argument for a scale" in done.stdout
    assert "no scale, on purpose" in done.stdout
    assert "[XPASS(strict)] mended since" in done.stdout
    assert "raising: no way was found to call it. Tried" in done.stdout


def good(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("subjects", [good, torch.nn.MultiheadAttention(4, 2), None, 3, {good}])
def test_anything_but_a_list_is_refused(subjects):
    kind = type(subjects).__name__
    with pytest.raises(TypeError, match=rf"^subjects must be a list of functions, modules or classes, got {kind}$"):
        check.parametrize(subjects)


def test_what_is_not_callable_is_refused_before_a_test_runs():
    with pytest.raises(TypeError, match=r"^subject must be a function, a module or a class, got int$"):
        check.parametrize([good, 3])


def test_names_that_there_are_not():
    with pytest.raises(ValueError, match=r"has no property 'matches'; did you mean matches_definition"):
        check.parametrize([good], only=["matches"])
    with pytest.raises(ValueError, match=r"expected: there is no property 'matches'; did you mean matches_definition"):
        check.parametrize([good], expected={"matches": "why"})
    with pytest.raises(ValueError, match=r"expected: 'matches_definition' needs a reason, in words"):
        check.parametrize([good], expected={"matches_definition": ""})


def test_each_case_tells_its_property_and_puts_the_generators_back():
    mark = check.parametrize([good], only=["matches_definition"])
    (case,) = mark.args[1]
    assert repr(case.values[0]) == "PropertyTest(matches_definition)"
    before = torch.get_rng_state()
    case.values[0]()
    assert torch.equal(torch.get_rng_state(), before)
