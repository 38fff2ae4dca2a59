"""The checks: a right solution has all points, a fault loses the checks that are about it, and no others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.check.course import faults

from regard.check.course.grader import CHECKS, Result, grade_module
from regard.check.course.registry import TASKS
from regard.check.load import load_module

EXERCISES = Path(__file__).parents[3] / "examples" / "exercises.py"


def lost(results: list[Result]) -> dict[str, Result]:
    return {f"{result.task}/{result.check}": result for result in results if result.earned == 0}


def expected(text: str) -> set[str]:
    """The checks that an entry of faults.LOST names."""
    names = set()
    for part in filter(None, text.split("; ")):
        task, _, checks = part.partition(": ")
        of = [check.name for check in CHECKS if check.task == task] if checks == "*" else checks.split()
        names |= {f"{task}/{check}" for check in of}
    return names


@pytest.fixture(scope="module")
def faulty() -> dict[str, Result]:
    return lost(grade_module(load_module(faults.SUBMISSIONS / "faulty.py")))


def test_every_check_is_worth_something_and_says_what_it_is_for():
    assert list(dict.fromkeys(check.task for check in CHECKS)) == list(TASKS)
    assert max(Counter((check.task, check.name) for check in CHECKS).values()) == 1
    for check in CHECKS:
        assert check.points >= 1
        assert check.asks
        assert len(check.catches) > 20


@pytest.mark.parametrize("path", [faults.SUBMISSIONS / "right.py", EXERCISES], ids=lambda path: path.name)
def test_a_right_solution_has_all_points(path: Path):
    assert lost(grade_module(load_module(path))) == {}


def test_so_has_the_notebook_of_it(tmp_path: Path):
    cells = EXERCISES.read_text(encoding="utf-8").split("# %%")[1:]
    listed = [
        {"cell_type": "markdown" if cell.startswith(" [markdown]") else "code", "source": cell.partition("\n")[2]}
        for cell in cells
    ]
    path = tmp_path / "exercises.ipynb"
    path.write_text(json.dumps({"cells": listed, "nbformat": 4}), encoding="utf-8")
    assert lost(grade_module(load_module(path))) == {}


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_loses_what_is_about_it(name: str, tmp_path: Path):
    found = lost(grade_module(faults.loaded(tmp_path, faults.edited(name))))
    assert set(found) == expected(faults.LOST[name])
    for result in found.values():
        assert result.message.startswith("asked for ")
        assert "; got " in result.message
        assert "\n" not in result.message + result.hint


#: fault -> (check, what its message says, what its hint asks)
SAID = {
    "sin and cos swapped": ("PositionalEncoding/formula", "got 1 where it is 0, at [0, 0]", "every cosine is 1"),
    "base 1000": ("PositionalEncoding/formula", "the encoding as defined", "what is the base, and what the exponent"),
    "table in float16": ("PositionalEncoding/formula", "elements are off", "in which dtype is the table made?"),
    "table in float64": ("PositionalEncoding/shape", "float32, the dtype of the embeddings; got float64", "the sum"),
    "adds in place": ("add_positional_encoding/inputs_untouched", "the embeddings to stay as they were", "write into"),
    "softmax over the queries": ("att_score/formula", "the output as defined", "sum the weights of one query"),
    "scale of d_k": ("att_score/formula", "60 of 60 elements are off", "what are the scores divided by?"),
    "softmax by hand": ("att_score/large_scores", "got 60 of 60 that are not, the first at [0, 0, 0]: nan", "exp(100)"),
    "inverted": ("attention_score/with_mask", "the output as defined", "which positions does your code fill?"),
    "mask ignored": ("attention_score/with_mask", "the output as defined", "the output is the one without a mask"),
    "fill of -inf": ("attention_score/empty_row", "finite numbers in the row that may read nothing", "a row of -inf"),
    "top row off by one": ("create_mask/lower_triangle", "True for query 0 and key 0 of 5; got False", "read itself?"),
    "one position too many": (
        "create_mask/lower_triangle",
        "False for query 0 and key 1 of 5; got True",
        "comes after",
    ),
    "upper triangle": ("create_mask/lower_triangle", "False for query 0 and key 1 of 5", "rows are queries"),
    "a mask of numbers": ("create_mask/boolean", "a boolean mask; got dtype float32", "True and False is expected"),
    "writes into Q": ("attention_score/inputs_untouched", "got argument number 1 changed", "whose names end in _"),
    "returns a tuple": (
        "attention_score/returns_the_output",
        "got a tuple of 2: a tensor (20, 5, 64)",
        "which of the two",
    ),
    "cut off from its inputs": ("attention_score/gradients", "cut off from its inputs", ".detach()"),
    "no weights": ("att_score/pair", "a pair (output, weights); got a tensor (20, 5, 64)", ""),
    "prints": ("att_score/quiet", "nothing to be printed; got 'torch.Size([3, 5, 8])' on stdout", "a print left over"),
    "no bias": ("SelfAttention/projections", "20 biases in all projections together; got 16", "bias=False"),
    "W_O without bias": ("MultiHeadSelfAttention/biases", "got 1 of 13 linear layers without", "bias=False"),
    "dropout in eval": ("SelfAttention/steady", "the same output for the same input in eval mode", "F.dropout"),
    "W_O last": ("MultiHeadSelfAttention/numbers", "to be 0.0275 there, as the course prints it", "the order in which"),
    "view without transpose": (
        "MultiHeadSelfAttention/formula",
        "the output as defined",
        "which columns of the concat",
    ),
    "mask for the first head alone": (
        "MultiHeadSelfAttention/mask_reaches_every_head",
        "that changed",
        "into each head",
    ),
    "heads in a plain list": ("MultiHeadSelfAttention/head_widths", "408 weights", "what an optimiser would see"),
    "widths that do not divide": ("MultiHeadSelfAttention/indivisible", "an error for d_k = 10", "d_k // num_heads"),
    "another name": ("att_score/formula", "something called att_score; got nothing", "there is attn_score: is that"),
    "sys.exit in a call": ("create_mask/boolean", "got a call of sys.exit()", ""),
    "odd d_model leaves the last column": ("PositionalEncoding/odd_width", "RuntimeError: The expanded", "column 6"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said(name: str, tmp_path: Path):
    check, message, hint = SAID[name]
    result = lost(grade_module(faults.loaded(tmp_path, faults.edited(name)), only=[check.partition("/")[0]]))[check]
    assert message in result.message
    assert hint in result.hint


#: The seven faults of a solution that its own tests call correct: where each is found, and what is said of it.
SEVEN = {
    "the mask is not passed to the heads": (
        "MultiHeadSelfAttention/mask_reaches_every_head",
        "asked for positions 0 to 2 to stay the same when positions 3 to 5 change, under a causal mask; got an output",
    ),
    "each head uses d_k and d_v whole": (
        "MultiHeadSelfAttention/head_widths",
        "asked for 4 heads that are 4 wide with d_k = 16, and 3 with d_v = 12: 408 weights with W^O; got 1,632 "
        "weights, as many as heads have that take d_k and d_v whole",
    ),
    "forward prints": (
        "MultiHeadSelfAttention/quiet",
        "asked for nothing to be printed; got 'concatenated heads: torch.Size([2, 5, 48])' on stdout",
    ),
    "-1e10 does not exist in float16": (
        "attention_score/half_precision",
        "got RuntimeError: value cannot be converted to type",
    ),
    "-1e10 makes an empty row attend to everything": (
        "attention_score/empty_row",
        "asked for a row that reads nothing, as the mask says; got the mean of all values: it attends to every key",
    ),
    "an odd d_model leaves the last column zero": (
        "PositionalEncoding/odd_width",
        "asked for sines in the last column of an odd d_model; got a last column that is zero at every position",
    ),
    "only 3-D input works although heads are promised": (
        "attention_score/leading_axes",
        "asked for input of shape (2, 3, 5, 8), as the docstring promises: (batch, num_heads, seq_len, d_k); got Run",
    ),
    "weights are promised and not returned": (
        "attention_score/promised_weights",
        "asked for what the docstring of attention_score promises to return, 'weights'; got the output alone",
    ),
}


@pytest.mark.parametrize("fault", SEVEN)
def test_the_seven_faults_of_a_solution_that_passes_its_own_tests(fault: str, faulty: dict[str, Result]):
    check, message = SEVEN[fault]
    assert message in faulty[check].message
    assert faulty[check].hint


def test_of_which_the_messages_differ(faulty: dict[str, Result]):
    messages = [faulty[check].message for check, _ in SEVEN.values()]
    assert len(set(messages)) == len(messages)


STUB = """
import torch
from torch import nn

class PositionalEncoding:
    def __init__(self, d_model, max_len): self.shape = (max_len, d_model)
    def get_encoding(self): return torch.full(self.shape, VALUE)

def add_positional_encoding(x, table): return torch.full_like(x, VALUE)
def att_score(Q, K, V): return torch.full_like(V, VALUE), torch.full((*Q.shape[:-1], K.shape[-2]), VALUE)
def attention_score(Q, K, V, mask=None): return torch.full_like(V, VALUE)
def create_mask(n): return torch.full((n, n), VALUE) > 0

class SelfAttention(nn.Module):
    def __init__(self, d_in, d_k, d_v):
        super().__init__()
        self.Wq, self.Wk, self.Wv = nn.Linear(d_in, d_k), nn.Linear(d_in, d_k), nn.Linear(d_in, d_v)
    def forward(self, X, mask=None): return torch.full_like(self.Wv(X), VALUE)

class MultiHeadSelfAttention(nn.Module):
    def __init__(self, d_in, d_k, d_v, num_heads):
        super().__init__()
        assert d_k % num_heads == 0 and d_v % num_heads == 0
        self.W_O = nn.Linear(d_v, d_v)
        self.heads = nn.ModuleList(SelfAttention(d_in, d_k // num_heads, d_v // num_heads) for _ in range(num_heads))
    def forward(self, X, mask=None): return torch.full_like(self.W_O(torch.cat([h(X) for h in self.heads], -1)), VALUE)
"""


@pytest.mark.parametrize("value", ["0.0", "0.2", "0.5", "float('nan')"])
def test_a_constant_earns_nothing(value: str, tmp_path: Path):
    results = grade_module(faults.loaded(tmp_path, STUB.replace("VALUE", value)))
    assert [f"{result.task}/{result.check}" for result in results if result.earned] == []


def test_the_mean_of_the_values_earns_nothing_for_its_numbers(tmp_path: Path):
    """What an input of ones, as in the course's own tests, cannot tell from attention."""
    text = faults.RIGHT.replace("torch.softmax(scores, dim=-1)", "torch.full_like(scores, 1 / scores.shape[-1])")
    found = lost(grade_module(faults.loaded(tmp_path, text)))
    assert {"att_score/formula", "att_score/weights", "attention_score/without_mask", "SelfAttention/formula"} <= set(
        found
    )
    assert {"MultiHeadSelfAttention/numbers", "MultiHeadSelfAttention/formula"} <= set(found)


def test_one_element_that_is_off_is_found(tmp_path: Path):
    text = faults.RIGHT.replace(
        "    return weights_of(Q, K, mask) @ V",
        "    output = weights_of(Q, K, mask) @ V\n    off = torch.zeros_like(output)\n"
        "    off[-1, -1, -1] = 1e-3\n    return output + off",
    )
    found = lost(grade_module(faults.loaded(tmp_path, text), only=["attention_score", "SelfAttention"]))
    assert {"attention_score/without_mask", "attention_score/with_mask", "SelfAttention/formula"} <= set(found)
    assert "1 of 60 elements are off" in found["attention_score/without_mask"].message


def test_the_usual_float32_table_is_right(tmp_path: Path):
    old = faults.RIGHT[faults.RIGHT.index("        position = ") : faults.RIGHT.index("        table = ")]
    new = (
        "        position = torch.arange(max_len).float()[:, None]\n"
        "        column = torch.arange(0, d_model, 2).float()\n"
        "        angle = position * torch.exp(column * (-math.log(10000.0) / d_model))\n"
    )
    assert lost(grade_module(faults.loaded(tmp_path, faults.RIGHT.replace(old, new)), only=TASKS[:2])) == {}


def test_other_names_and_another_order_of_the_parameters_are_right(tmp_path: Path):
    text = faults.RIGHT.replace("Wq", "W_query").replace("Wk", "W_key").replace("Wv", "linear_for_v")
    assert lost(grade_module(faults.loaded(tmp_path, text))) == {}


FUSED = """
class MultiHeadSelfAttention(nn.Module):
    def __init__(self, d_in, d_k, d_v, num_heads):
        super().__init__()
        assert d_k % num_heads == 0 and d_v % num_heads == 0
        self.num_heads = num_heads
        self.q, self.k, self.v = nn.Linear(d_in, d_k), nn.Linear(d_in, d_k), nn.Linear(d_in, d_v)
        self.out = nn.Linear(d_v, d_v)

    def forward(self, X, mask=None):
        q, k, v = (f(X).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(attention_score(q, k, v, mask).transpose(1, 2).flatten(2))
"""


def test_a_fused_layer_is_right_but_for_the_courses_numbers(tmp_path: Path):
    text = faults.RIGHT[: faults.RIGHT.index("class MultiHeadSelfAttention")] + FUSED
    assert set(lost(grade_module(faults.loaded(tmp_path, text)))) == {"MultiHeadSelfAttention/numbers"}
    mixed = text.replace(".transpose(1, 2).flatten(2)", ".reshape(*X.shape[:2], -1)")
    found = set(lost(grade_module(faults.loaded(tmp_path, mixed))))
    assert {"MultiHeadSelfAttention/formula", "MultiHeadSelfAttention/permutation"} <= found


def test_what_a_submission_sets_for_the_process_is_set_back(tmp_path: Path):
    text = faults.RIGHT + "\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
    try:
        assert lost(grade_module(faults.loaded(tmp_path, text))) == {}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)


def test_a_part_of_the_tasks_and_the_messages_on_the_way(tmp_path: Path):
    seen: list[dict] = []
    results = grade_module(faults.loaded(tmp_path, faults.RIGHT), only=["create_mask"], report=seen.append)
    assert {result.task for result in results} == {"create_mask"}
    assert seen[0] == {"begin": ["create_mask", "boolean"]}
    assert seen[1] == {"task": "create_mask", "check": "boolean", "points": 1, "earned": 1, "message": "", "hint": ""}
    assert len(seen) == 2 * len(results)


def test_want_of_memory_is_no_fault_of_a_check(tmp_path: Path):
    text = faults.RIGHT.replace("    return torch.ones(seq_len", "    raise MemoryError\n    return torch.ones(seq_len")
    with pytest.raises(MemoryError):
        grade_module(faults.loaded(tmp_path, text), only=["create_mask"])
