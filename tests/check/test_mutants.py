from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace

import pytest
import torch
from tests.check.mutant_questions import ALIGNED, QUESTIONS, call, differs, gradients

from regard.check.contract import REGARD
from regard.check.definition import define
from regard.check.mutants import MUTANTS
from regard.check.mutants.mutant import Attention

PROPERTIES = {
    "output_shape_and_dtype", "inputs_are_unchanged", "prints_nothing", "global_state_is_kept", "runs_twice_equal",
    "earlier_calls_leave_no_trace", "requires_grad_changes_nothing", "matches_definition", "scale_follows_the_width",
    "custom_scale", "large_logits", "one_huge_logit", "equal_keys_give_the_mean", "bias_is_added", "softcap_caps",
    "half_precision", "double_precision", "odd_widths", "value_width_differs", "lengths_differ", "long_inputs",
    "linear_in_values", "shift_of_keys_changes_nothing", "order_of_keys_changes_nothing", "order_of_queries_is_kept",
    "rows_sum_to_one", "sequences_are_independent", "heads_are_independent", "grouped_heads", "mask_polarity",
    "masked_keys_change_nothing", "padding_changes_nothing", "masks_per_sequence", "masks_per_head",
    "additive_equals_boolean", "masked_matches_definition", "half_precision_with_a_mask", "combined_masks",
    "empty_rows", "empty_row_gradients", "unread_keys_leave_no_trace", "causal_alignment", "future_does_not_leak",
    "causal_with_every_option", "window_counts", "weights_match_output", "asking_for_weights_changes_nothing",
    "gradients_match", "gradients_with_a_mask", "strides_do_not_matter", "eval_is_deterministic", "train_equals_eval",
    "dropout_survives_a_round_trip", "dropout_is_unbiased", "dropout_gradient", "uses_context", "any_sizes",
    "dropout_drops_weights",
}  # fmt: skip
CORES = {name: each for name, each in MUTANTS.items() if each.core is not None}
# No float64 answer is the one of bfloat16, no sigmoid sums to 1, no value has length 1.
RIGHT_NOWHERE = {
    "sigmoid_in_place_of_softmax", "values_normalised", "computed_in_bfloat16", "output_truncated_to_float16",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Tensors of a few numbers: threads that wait for each other would take most of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_tells_what_it_is(name):
    each = MUTANTS[name]
    assert each.name == name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert each.aims in PROPERTIES
    assert all(row in range(1, 35) for row in each.rows)
    first = each.says.split()[0]
    assert first.endswith("ing") or first in ("a", "an", "causal", "dropout", "weights"), each.says
    assert not each.says.endswith(".")
    assert 10 < len(each.says) <= 110


def test_every_property_and_every_bug_of_attention_has_a_mutant():
    assert {each.aims for each in MUTANTS.values()} == PROPERTIES
    positions_and_compilers = {20, 30, 32, 33}
    assert set(range(1, 35)) - {row for each in MUTANTS.values() for row in each.rows} == positions_and_compilers


def test_no_two_mutants_say_the_same():
    assert len({each.says for each in MUTANTS.values()}) == len(MUTANTS)


@pytest.fixture(scope="module")
def answers():
    return {name: [each.core(r, REGARD) for r in QUESTIONS.values()] for name, each in CORES.items()}


@pytest.fixture(scope="module")
def truths():
    return [define(r, REGARD) for r in QUESTIONS.values()]


@pytest.mark.parametrize("name", CORES)
def test_a_core_is_wrong_somewhere_and_right_elsewhere(name, answers, truths):
    wrong = [differs(got, want) for got, want in zip(answers[name], truths, strict=True)]
    assert any(wrong)
    assert all(wrong) == (name in RIGHT_NOWHERE)


@pytest.mark.parametrize("name", CORES)
def test_a_core_gives_the_same_twice(name, answers):
    for r, before in zip(QUESTIONS.values(), answers[name], strict=True):
        assert torch.equal(CORES[name].core(r, REGARD).nan_to_num(7.0), before.nan_to_num(7.0))


@pytest.mark.parametrize("contract", [ALIGNED, replace(REGARD, combined="mask-only"), replace(REGARD, causal="always")])
def test_cores_follow_other_contracts_elsewhere(contract):
    truths = {text: define(r, contract) for text, r in QUESTIONS.items()}
    for name in sorted(set(CORES) - RIGHT_NOWHERE):
        core = CORES[name].core
        right = any(not differs(core(r, contract), truths[text]) for text, r in QUESTIONS.items())
        # Always causal and never allowed to see itself: there is nothing left that could be right.
        assert right or (name, contract.causal) == ("causal_strict", "always"), name


def test_no_two_cores_answer_the_same(answers):
    flat = {name: torch.cat([t.flatten() for t in each]).nan_to_num(1e3) for name, each in answers.items()}
    names, table = list(flat), torch.stack(list(flat.values()))
    for i, name in enumerate(names[1:], 1):
        off = (table[:i] - table[i]).abs().amax(-1)
        assert float(off.min()) > 1e-4, f"{name} and {names[int(off.argmin())]}"


@pytest.mark.parametrize("name", CORES)
def test_what_is_built_has_the_bug_of_its_core(name):
    each, subject = CORES[name], MUTANTS[name].build()
    if isinstance(subject, Attention):
        assert subject.core is each.core
        return
    for r in QUESTIONS.values():
        if not r.dropout and r.strides is None and not r.weights:
            assert not differs(call(subject, r), each.core(r, REGARD))


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_built_can_be_called(name):
    subject = MUTANTS[name].build()
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            if isinstance(subject, torch.nn.Module):
                output, weights = subject(x, need_weights=True)
                assert output.shape == x.shape
                assert weights.shape[-2:] in ((5, 5), (2, 2))
            else:
                q = x.unflatten(-1, (3, 8)).transpose(1, 2)
                assert subject(q, q.clone(), q.clone()).shape == q.shape
                output, weights = subject(q, q.clone(), q.clone(), dropout=0.1, need_weights=True)
                assert output.shape == q.shape
                assert weights.shape == (2, 3, 5, 5)
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


# -- those whose numbers are right -------------------------------------------------------------------------------------

WRONG_GRADIENTS = {
    "detached_weights": "plain",
    "gradient_scaled": "plain",
    "normaliser_detached": "plain",
    "value_gradient_unmasked": "mask",
    "nan_gradient_on_empty_rows": "empty row",
    "nan_leaks_into_the_gradient": "unread",
}


@pytest.mark.parametrize(("name", "question"), WRONG_GRADIENTS.items())
def test_a_wrong_gradient_hides_behind_a_right_output(name, question):
    r = QUESTIONS[question]
    subject = MUTANTS[name].build()
    assert not differs(call(subject, r), define(r, REGARD))
    got = gradients(lambda q, k, v: call(subject, r.but(query=q, key=k, value=v)), r)
    want = gradients(lambda q, k, v: define(r.but(query=q, key=k, value=v), REGARD), r)
    assert any(differs(mine, theirs) for mine, theirs in zip(got, want, strict=True))


def test_strides_count_in_the_backward_alone():
    subject = MUTANTS["strides_ignored_in_the_backward"].build()
    r = QUESTIONS["plain"]

    def strided(q, k, v):
        return subject(*(t.mT.contiguous().mT for t in (q, k, v)))

    assert not differs(strided(r.query, r.key, r.value), define(r, REGARD))
    got, want = gradients(strided, r), gradients(lambda q, k, v: define(r.but(query=q, key=k, value=v), REGARD), r)
    assert differs(got[0], want[0])


@pytest.mark.parametrize(
    "name", ["weights_before_the_mask", "weights_are_scores", "weights_of_the_first_head", "weights_transposed"]
)
def test_wrong_weights_beside_a_right_output(name):
    r = QUESTIONS["mask"]
    output, weights = call(MUTANTS[name].build(), r, need_weights=True)
    assert torch.equal(output, define(r, REGARD))
    assert differs(weights @ r.value, output)


@pytest.mark.parametrize(
    ("name", "factor"),
    {"dropout_unscaled": 0.75, "dropout_scaled_by_p": 3.0, "module_with_dropout_unscaled": 0.75}.items(),
)
def test_dropout_with_the_wrong_mean(name, factor):
    torch.manual_seed(0)
    subject = MUTANTS[name].build()
    if isinstance(subject, Attention):
        got = subject.drop(torch.ones(1, 1, 100, 100), 0.25)
    else:
        q = torch.zeros(1, 1, 100, 100)
        got = subject(q, q, torch.ones_like(q), dropout=0.25)
    assert abs(float(got.mean()) - factor) < 0.05 * factor
