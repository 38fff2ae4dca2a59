"""regard.check() of bad subjects: a clear finding, in finite time, and everything as it was before."""

# ruff: noqa: PERF203 (a subject swallows exceptions in a loop)
from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard


def attend(q, k, v, mask=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


def state() -> dict[str, object]:
    return {
        "torch": (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        "threads": torch.get_num_threads(),
        "generators": (torch.get_rng_state().tolist(), torch.initial_seed(), random.getstate()),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "filters": list(warnings.filters),
        "streams": (sys.stdout, sys.stderr),
        "signals": (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)),
        "autocast": torch.is_autocast_enabled("cpu"),
        "trace": sys.gettrace(),
    }


@pytest.fixture(autouse=True)
def _state_is_kept():
    before = state()
    yield
    assert state() == before


def raises(q, k, v):
    raise ValueError("no way")


def returns_nothing(q, k, v):
    return None


def returns_a_generator(q, k, v):
    yield attend(q, k, v)


def returns_itself(q, k, v):
    found: list = []
    found.append(found)
    return found


def returns_integers(q, k, v):
    return attend(q, k, v).int()


def returns_complex(q, k, v):
    return attend(q, k, v) + 0j


def returns_sparse(q, k, v):
    return attend(q, k, v).to_sparse()


def returns_meta(q, k, v):
    return attend(q, k, v).to("meta")


def returns_objects(q, k, v):
    return np.array([None, 1], dtype=object)


class Liar:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("lies")


def returns_a_liar(q, k, v):
    return Liar()


def exits(q, k, v):
    sys.exit(3)


def hangs(q, k, v):
    while True:
        pass


def swallows(q, k, v):
    while True:
        try:
            for n in range(10**9):
                str(n)
        except BaseException:
            pass


def allocates(q, k, v):
    return torch.empty(10**13)


def recurses(q, k, v):
    return recurses(q, k, v)


UNCALLABLE = {
    raises: "raises: no way was found to call it. Tried BHLD, BLHD, NLD, BLE, LD, BHLD as arrays, BLHD as arrays, "
    "NLD as arrays, BLE as arrays, LD as arrays: ValueError: no way",
    returns_nothing: "returned None; expected a tensor of shape (2, 3, 5, 8)",
    returns_a_generator: "returned generator; expected a tensor",
    returns_itself: "returned a list of list; expected a tensor",
    returns_integers: "output is torch.int32 for inputs of torch.float32",
    returns_complex: "output is torch.complex64 for inputs of torch.float32",
    returns_sparse: "returned a tensor that is of torch.sparse_coo; expected a dense one with numbers",
    returns_meta: "returned a tensor that is on the device meta; expected a dense one with numbers",
    returns_objects: "returned ndarray; expected a tensor",
    returns_a_liar: "what it returned cannot be read: RuntimeError: lies",
    exits: "called sys.exit(3)",
    hangs: "hangs: a plain call (B 2, H 3, L 5, D 8): no answer within 0.3 s",
    swallows: "swallows: a plain call (B 2, H 3, L 5, D 8): no answer within 0.3 s",
    allocates: "ran out of the memory it is allowed",
    recurses: "RecursionError: maximum recursion depth exceeded",
}


@pytest.mark.parametrize("subject", UNCALLABLE)
def test_what_cannot_be_called_is_one_failure(subject):
    began = time.monotonic()
    report = regard.check(subject, seconds=0.3)
    assert [result.name for result in report.results] == ["can_be_called"]
    assert UNCALLABLE[subject] in report.failures[0].message
    assert not report.ok
    assert str(report).endswith(": FAILED\n")
    assert json.loads(report.to_json())["ok"] is False
    assert time.monotonic() - began < 20


def edits(q, k, v, mask=None):
    q.mul_(2)
    return attend(q / 2, k, v, mask)


def edits_its_mask(q, k, v, mask=None):
    output = attend(q, k, v, mask)
    if mask is not None:
        mask.logical_not_()
    return output


def prints(q, k, v):
    sys.stdout.write("hello")
    return attend(q, k, v)


def seeds(q, k, v):
    torch.manual_seed(0)
    return attend(q, k, v)


def widens(q, k, v):
    torch.set_default_dtype(torch.float64)
    return attend(q, k, v)


def returns_its_query(q, k, v):
    return q


def returns_a_view(q, k, v):
    return v[:]


def returns_double(q, k, v):
    return attend(q, k, v).double()


def returns_nan(q, k, v):
    return attend(q, k, v) * torch.nan


def detaches(q, k, v):
    return attend(q, k, v).detach().requires_grad_()


kept: list[Tensor] = []


def edits_later(q, k, v):
    output = attend(q, k, v)
    for t in kept:
        t.fill_(0)
    kept[:] = [output.detach()]
    return output


FOUND = {
    edits: ("inputs_are_unchanged", "writes to its query"),
    edits_its_mask: ("inputs_are_unchanged", "writes to its mask"),
    prints: ("prints_nothing", "prints 'hello'"),
    seeds: ("global_state_is_kept", "seeds the global generator (torch.manual_seed(0))"),
    widens: ("global_state_is_kept", "changes the default dtype from torch.float32 to torch.float64"),
    returns_its_query: ("matches_definition", "output: off by"),
    returns_a_view: ("matches_definition", "output: off by"),
    returns_double: ("output_shape_and_dtype", "output is torch.float64 for inputs of torch.float32"),
    returns_nan: ("matches_definition", "numbers are NaN or inf"),
    detaches: ("gradients_match", "gradient of query"),
    edits_later: ("runs_twice_equal", "the same call again: "),
}


@pytest.mark.parametrize("subject", FOUND)
def test_what_a_subject_does_beside_answering_is_found(subject):
    name, said = FOUND[subject]
    report = regard.check(subject, only=[name])
    assert [result.name for result in report.failures] == [name], str(report)
    assert said in report.failures[0].message
    json.loads(report.to_json(), parse_constant=pytest.fail)  # NaN is no JSON


class Own(Tensor):
    @classmethod
    def __torch_function__(cls, function, kinds, given=(), options=None):
        raise RuntimeError("mine")


FINE = {
    "nested": lambda q, k, v: ((attend(q, k, v),),),
    "subclass": lambda q, k, v: attend(q, k, v).as_subclass(Own),
    "parameter": lambda q, k, v: attend(q, k, v) * nn.Parameter(torch.ones(())),
    "closes stdout": lambda q, k, v: (sys.stdout.close(), attend(q, k, v))[1],
    "warns": lambda q, k, v: (warnings.warn("mine", stacklevel=1), attend(q, k, v))[1],
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_strange_and_right_is_ok(name):
    report = regard.check(FINE[name])
    assert report.ok, str(report)


class Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, back):
        ctx.back = back
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.back(), None


def hang_back():
    while True:
        pass


def raise_back():
    raise ValueError("mine")


@pytest.mark.parametrize(
    ("back", "said"),
    [(hang_back, "backward pass: no answer within 0.3 s"), (raise_back, "backward pass: raises ValueError: mine")],
)
def test_a_backward_pass_that_hangs_or_raises_is_a_failure(back, said):
    report = regard.check(lambda q, k, v: Back.apply(attend(q, k, v), back), seconds=0.3, only=["gradients_match"])
    assert [result.message for result in report.failures] == [said]


def test_ctrl_c_passes():
    def interrupted(q, k, v):
        torch.set_default_dtype(torch.float64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regard.check(interrupted)


@pytest.mark.parametrize("subject", [attend, hangs, raises])
def test_from_another_thread(subject):
    came: list[bool] = []
    thread = threading.Thread(target=lambda: came.append(regard.check(subject, seconds=0.3, only=["Numbers"]).ok))
    thread.start()
    thread.join(30)
    assert came == [subject is attend]


class Layer(nn.Module):
    """Keeps its output, counts its calls and trains itself: all of it is done to a copy."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(0.25)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in self.projections())
        self.kept = self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return self.dropout(self.kept)

    def projections(self):
        return self.q_proj, self.k_proj, self.v_proj


class Trains(Layer):
    def forward(self, x):
        with torch.no_grad():
            self.q_proj.weight.mul_(1.01)
        return super().forward(x)


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("kind", [Layer, Trains])
def test_a_module_of_somebody_stays_as_it_is(kind, called_before):
    with torch.random.fork_rng():
        layer = kind()
        layer.k_proj.requires_grad_(False)
        if called_before:
            layer(torch.zeros(1, 2, 24))
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    report = regard.check(layer)
    assert {result.name for result in report.failures} >= ({"runs_twice_equal"} if kind is Trains else set())
    assert report.ok == (kind is Layer), str(report)
    assert layer.training
    assert layer.dropout.p == 0.25
    assert [p.requires_grad for p in layer.parameters()] == [True, True, False, False, True, True, True, True]
    assert all(p.grad is None for p in layer.parameters())
    for name, t in layer.state_dict().items():
        assert torch.equal(t, before[name]), name
