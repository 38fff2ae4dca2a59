"""Projection where it is nn.Linear: small problems, other machines, modes that see or change F.linear."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.projecting import ROWS, K, N, given, spy
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from regard import projection
from regard.projection import Projection, linear

__all__ = ["spy"]


def test_small_problems_ask_nothing_of_the_machine(monkeypatch):
    def asked() -> bool:
        raise AssertionError("the machine was asked")

    monkeypatch.setattr(projection, "_mkl_is_slow", asked)
    x, weight, bias = given(ROWS - 1)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    with pytest.raises(AssertionError, match="machine was asked"):
        linear(torch.randn(ROWS, K), weight, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(spy, dtype):
    layer, x = Projection(K, N).to(dtype), given()[0].to(dtype)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert spy.rows == []


def outcome(function: Any, inputs: list[Tensor]) -> str:
    try:
        return f"{function(*inputs).device}"
    except RuntimeError as error:
        return str(error)


def test_other_devices(spy):
    x, weight, bias = given()
    assert Projection(K, N, device="meta")(x.to("meta")).shape == (4, 32, N)
    for devices in itertools.product(("cpu", "meta"), repeat=3):
        if set(devices) != {"cpu"}:
            inputs = [t.to(device) for t, device in zip((x, weight, bias), devices, strict=True)]
            assert outcome(linear, inputs) == outcome(F.linear, inputs)
    assert spy.rows == []


class Logged(Tensor):
    pass


def test_a_weight_of_a_kind_of_its_own(spy):
    x, weight, bias = given()
    assert type(linear(x, weight.as_subclass(Logged), bias)) is Logged
    assert type(linear(x, weight, bias.as_subclass(Logged))) is Logged
    assert spy.rows == []


class Counting(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen = [*getattr(self, "seen", []), func]
        return func(*args, **(kwargs or {}))


@contextmanager
def a_lower_precision() -> Iterator[None]:
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


@contextmanager
def without_onednn() -> Iterator[None]:
    # torch.backends.mkldnn.flags() warns of another setting that it restores.
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


def _in(mode: Any, run: Any) -> Tensor:
    with mode:
        return run()


def _forward_ad(x: Tensor, layer: Projection) -> Tensor:
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(x, 2 * x)
        return forward_ad.unpack_dual(layer(dual)).tangent + 0


ELSEWHERE = {
    "autocast": lambda layer, x: _in(torch.autocast("cpu", torch.bfloat16), lambda: layer(x)),
    "vmap": lambda layer, x: torch.vmap(layer)(x[None].expand(2, *x.shape))[1],
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (2 * x,))[1],
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).square().sum())(x),
    "forward AD": lambda layer, x: _forward_ad(x, layer),
    "a dispatch mode": lambda layer, x: _in(FlopCounterMode(display=False), lambda: layer(x)),
    "a function mode": lambda layer, x: _in(Counting(), lambda: layer(x)),
    "oneDNN off": lambda layer, x: _in(without_onednn(), lambda: layer(x)),
    "a lower precision": lambda layer, x: _in(a_lower_precision(), lambda: layer(x)),
    "a subclass": lambda layer, x: layer(x.as_subclass(Logged)),
    "make_fx": lambda layer, x: make_fx(layer)(x)(x),
    "fx": lambda layer, x: torch.fx.GraphModule(layer, torch.fx.Tracer().trace(layer))(x),
    "export": lambda layer, x: torch.export.export(layer, (x,)).module()(x),
    "export without dynamo": lambda layer, x: torch.export.export(layer, (x,), strict=False).module()(x),
    "compile": lambda layer, x: torch.compile(layer, fullgraph=True, backend="eager")(x),
}


@pytest.fixture
def quiet() -> Iterator[None]:
    """No graph of an earlier test, and none of the warnings of torch's own parts."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_steps_aside(spy, quiet, name, frozen):
    layer, theirs = Projection(K, N).requires_grad_(not frozen), nn.Linear(K, N).requires_grad_(not frozen)
    theirs.load_state_dict(layer.state_dict())
    x = given()[0]
    got = ELSEWHERE[name](layer, x)
    assert spy.rows == [], name
    want = ELSEWHERE[name](theirs, x)
    assert got.dtype == want.dtype
    assert torch.equal(got, want)
    layer(x)
    assert len(spy.rows) == 1  # it would have been used


def test_a_trace_holds_no_private_op(spy, quiet):
    layer, x = Projection(K, N), given()[0]
    assert "mkldnn" not in str(torch.jit.trace(layer, x, check_trace=False).inlined_graph)
    assert spy.rows == []


def test_export_with_any_number_of_rows(spy, quiet):
    layer = Projection(K, N)
    program = torch.export.export(
        layer, (torch.randn(4, 32, K),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},)
    )
    assert "mkldnn" not in str(program.graph)
    for batch in (1, 4, 100):
        assert program.module()(torch.randn(batch, 32, K)).shape == (batch, 32, N)


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(ROWS, K + 1), torch.ones(N, K), None),
        (torch.ones(ROWS, K), torch.ones(N, K), torch.ones(N + 1)),
        (torch.ones(ROWS, K), torch.ones(N, K), torch.ones(N).double()),
        (torch.ones(ROWS, K), torch.ones(1, N, K), None),
        (torch.ones(ROWS, K), torch.tensor(1.0), None),
        (torch.tensor(1.0), torch.ones(projection.WORTH, 1), None),
        (torch.ones(ROWS, K).double(), torch.ones(N, K), None),
        (torch.ones(ROWS, K), torch.ones(N, K).double(), None),
    ],
    ids=["wide x", "long bias", "double bias", "3-D weight", "0-D weight", "0-D x", "double x", "double weight"],
)
def test_errors_are_those_of_torch(spy, x, weight, bias):
    with pytest.raises((RuntimeError, IndexError)) as theirs:
        F.linear(x, weight, bias)
    with pytest.raises((RuntimeError, IndexError)) as ours:
        linear(x, weight, bias)
    assert str(ours.value) == str(theirs.value)
    assert spy.rows == []


def test_layouts_without_strides(spy):
    x, weight, bias = given()
    x = x.view(ROWS, K)
    torch.testing.assert_close(linear(x.to_sparse(), weight), F.linear(x, weight))
    with torch.no_grad():
        blocked = linear(x.to_mkldnn(), weight.to_mkldnn(), bias.to_mkldnn())
    assert blocked.layout is torch._mkldnn
    assert spy.rows == []


def test_nothing_to_project(spy):
    x, weight, bias = given()
    assert linear(x[:0], weight, bias).shape == (0, 32, N)
    assert linear(x, weight[:0], bias[:0]).shape == (4, 32, 0)
    assert torch.equal(linear(x[..., :0], weight[:, :0], bias), bias.expand(4, 32, N))
    assert spy.rows == []


@pytest.mark.parametrize(
    ("features", "slow"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_f": True}, False),
        ({}, False),
        (None, False),
    ],
)
def test_which_machines(monkeypatch, features, slow):
    if features is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert projection._mkl_is_slow.__wrapped__() is slow
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert projection._mkl_is_slow.__wrapped__() is False


def test_a_release_with_another_op_or_without_it(monkeypatch):
    inputs = given()
    monkeypatch.setattr(projection, "_mkl_is_slow", lambda: True)
    with monkeypatch.context() as patched:
        patched.setattr(projection, "SCHEMA", "mkldnn::_linear_pointwise(Tensor X) -> Tensor")
        assert projection._op.__wrapped__() is None
    for owner, name in (
        (torch.ops.mkldnn, "_linear_pointwise"),
        (torch._C._functorch, "peek_interpreter_stack"),
        (torch._C._functorch, "is_legacy_batchedtensor"),
        (torch._C, "_get_fp32_precision_getter"),
        (forward_ad, "_current_level"),
    ):
        with monkeypatch.context() as patched, torch.autocast("cpu", torch.bfloat16):
            if owner is torch.ops.mkldnn:
                patched.setattr(torch.ops, "mkldnn", object())
            else:
                patched.delattr(owner, name)
            assert projection._op.__wrapped__() is None, name
    monkeypatch.setattr(projection, "_op", lambda: None)
    assert torch.equal(linear(*inputs), F.linear(*inputs))
