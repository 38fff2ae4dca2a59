from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import regard
from regard.check import Contract, Report, Result
from regard.check.suites import suite_of


def wrong(q, k, v, mask=None, scale=None):
    s = q @ k.mT * (1.0 if scale is None else scale)
    return (s if mask is None else s.masked_fill(~mask, float("-inf"))).softmax(-1) @ v


@pytest.fixture(scope="module")
def failed() -> Report:
    return regard.check(wrong, Contract(mask="allow"))


@pytest.fixture(scope="module")
def passed() -> Report:
    return regard.check(F.scaled_dot_product_attention)


def test_the_verdict_is_the_last_line(failed, passed):
    assert str(failed).splitlines()[-1] == failed.verdict
    assert failed.verdict.endswith("s: FAILED")
    assert passed.verdict.startswith(f"{len(passed.having('passed'))} passed, 0 failed, ")
    assert passed.verdict.endswith("s: OK")


def test_conventions_say_which_were_declared(failed):
    lines = str(failed).splitlines()
    assert "  mask        True = may attend (declared)" in lines
    assert "  weights     not returned" in lines
    assert any(line.startswith("  warning: an empty row gives NaN: ") for line in lines)


def test_one_bug_is_explained_once(failed):
    text = str(failed)
    assert len(failed.failures) > 5
    assert text.count("to reproduce:") < len(failed.failures)
    assert text.count("leaving the scores unscaled") == 2  # where it is first seen, and above the verdict


def test_what_is_skipped_is_shown_with_its_reason(passed):
    skipped = {result.name: result.message for result in passed.having("skipped")}
    assert skipped["window_counts"] == "it has no argument for a window"
    assert "  --   window_counts: it has no argument for a window" in str(passed).splitlines()


def test_json_holds_everything(failed):
    data = json.loads(failed.to_json())
    assert data["ok"] is False
    assert data["subject"] == "wrong"
    assert data["declared"] == {"mask": "allow"}
    assert data["contract"]["empty_row"] == "nan"
    (first,) = (one for one in data["results"] if one["name"] == "matches_definition")
    assert first["status"] == "failed"
    assert first["likely_name"] == "scale_missing"
    assert "torch.Generator().manual_seed(0)" in first["repro"]
    assert data["versions"].startswith("regard ")


def result(name: str, status: str) -> Result:
    return Result(name, status)  # type: ignore[arg-type]


def made(*results: Result, untested: str = "") -> Report:
    nothing = Contract()
    return Report("f", "function", "attention", "none", nothing, nothing, results, untested=untested)


def test_ok_means_nothing_failed_and_enough_was_tested():
    assert made(result("a", "passed"), result("b", "skipped"), result("c", "xfailed")).ok
    assert not made(result("a", "passed"), result("b", "failed")).ok
    too_little = made(result("a", "passed"), untested="only 1 of 9 properties could run")
    assert not too_little.ok
    assert too_little.verdict.endswith("NOT ENOUGH TESTED: only 1 of 9 properties could run")


def test_expected_failures_need_a_reason_and_are_counted(failed):
    reasons = {one.name: "the scale is applied by the caller" for one in failed.failures}
    report = regard.check(wrong, Contract(mask="allow"), expected=reasons | {"rows_sum_to_one": "it might"})
    assert report.ok
    assert len(report.having("xfailed")) == len(failed.failures)
    assert [one.name for one in report.having("xpassed")] == ["rows_sum_to_one"]
    assert "the scale is applied by the caller (output: off by" in report.having("xfailed")[0].message
    with pytest.raises(ValueError, match="expected: 'custom_scale' needs a reason, in words"):
        regard.check(wrong, expected={"custom_scale": " "})
    with pytest.raises(ValueError, match="expected: there is no property 'custom_scales'"):
        regard.check(wrong, expected={"custom_scales": "why"})


def test_only_takes_names_and_groups_and_says_what_is_near():
    report = regard.check(wrong, only=["check_custom_scale", "Algebra"])
    names = {one.name for one in report.results}
    assert "custom_scale" in names
    assert "linear_in_values" in names
    assert "matches_definition" not in names
    with pytest.raises(ValueError, match=r"no property 'custom_scal'; did you mean custom_scale"):
        regard.check(wrong, only=["custom_scal"])
    with pytest.raises(ValueError, match="suite: there is no 'attn'; known: attention, positions, rotary"):
        regard.check(wrong, suite="attn")


def test_progress_is_told_before_each_property():
    seen: list[tuple[str, int, int]] = []
    regard.check(wrong, only=["Algebra"], progress=lambda *each: seen.append(each))
    assert [n for _, n, _ in seen] == list(range(1, len(seen) + 1))
    assert {of for _, _, of in seen} == {len(seen)}


def test_the_same_seed_gives_the_same_report(failed):
    again = regard.check(wrong, Contract(mask="allow"))
    assert [(r.name, r.status, r.message) for r in again.results] == [
        (r.name, r.status, r.message) for r in failed.results
    ]
    other = regard.check(wrong, Contract(mask="allow"), seed=1)
    assert [r.message for r in other.failures] != [r.message for r in failed.failures]


def test_a_suite_is_told_from_a_name():
    assert suite_of(regard.PositionalEncoding) == "positions"
    assert suite_of(regard.PositionalEncoding(8, 10)) == "positions"
    assert suite_of(regard.MultiHeadAttention) == suite_of(torch.nn.MultiheadAttention(8, 2)) == "attention"

    def apply_rotary_pos_emb(q, k): ...

    def rotary_attention(q, k, v): ...

    assert suite_of(apply_rotary_pos_emb) == "rotary"
    assert suite_of(rotary_attention) == "attention"
