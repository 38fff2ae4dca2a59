"""A watched model runs as it did: checkpoints, compiled models, inference, threads; and all is as it was afterwards."""

from __future__ import annotations

import copy
import io
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from tests.compiling import fresh
from tests.watch.attending import Attention, Tower, by_definition, same
from torch import nn
from torch.utils.checkpoint import checkpoint

import regard

__all__ = ["fresh"]


class Checkpointed(Tower):
    def __init__(self, *, use_reentrant):
        super().__init__(2)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        for layer in self.layers:
            x = x + checkpoint(layer, x, use_reentrant=self.use_reentrant)
        return x


def backward(output):
    output.sum().backward()


def engine(output):
    # Tensor.backward is a torch function, and nothing inside of one is seen; the engine under it is none.
    torch.autograd.Variable._execution_engine.run_backward(
        (output,), (torch.ones_like(output),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@pytest.mark.parametrize("run", [backward, engine])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_is_recorded_once(use_reentrant, run):
    model = Checkpointed(use_reentrant=use_reentrant).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64, requires_grad=True)
    with regard.watch(model) as seen:
        run(model(x))
        assert seen.names == ["layers.0", "layers.1"]
        model(x)
    assert seen.names == ["layers.0", "layers.1"] * 2
    same(seen[0].weights, by_definition(*model.layers[0].projected(x)[:2]))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_model_that_is_checkpointed_has_run_once(use_reentrant):
    model, x = Tower(), torch.randn(2, 6, 16, requires_grad=True)
    with regard.watch(model) as seen:
        checkpoint(model, x, use_reentrant=use_reentrant).sum().backward()
        model(x)
    assert [record.step for record in seen] == [0, 0, 1, 1]


def test_an_attention_that_is_checkpointed_by_torchs_layers():
    layer = nn.MultiheadAttention(16, 4, batch_first=True).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64, requires_grad=True)
    with regard.watch(layer) as seen:
        checkpoint(layer, x, x, x, use_reentrant=False)[0].sum().backward()
    assert len(seen) == 1


def compiled_model():
    return torch.compile(Tower().double(), backend="eager")


def compiled_in_place():
    model = Tower().double()
    model.compile(backend="eager")
    return model


def holds_a_compiled_layer():
    model = Tower().double()
    model.layers[1] = torch.compile(model.layers[1], backend="eager")
    return model


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("make", [compiled_model, compiled_in_place, holds_a_compiled_layer])
def test_compiled_models_run_uncompiled_and_say_so(make):
    model, x = make(), torch.randn(2, 6, 16, dtype=torch.float64)
    model(x)
    match = "is compiled, and runs uncompiled while it is watched"
    with pytest.warns(regard.watch.UncompiledWarning, match=match) as caught:
        watch = regard.watch(model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with watch as seen:
        model(x)
    assert seen.names == ["layers.0", "layers.1"]
    layers = [getattr(layer, "_orig_mod", layer) for layer in getattr(model, "_orig_mod", model).layers]
    same(seen[0].weights, by_definition(*layers[0].projected(x)[:2]))


@pytest.mark.usefixtures("fresh")
def test_compiled_code_is_compiled_again_afterwards():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    function = torch.compile(lambda x: F.scaled_dot_product_attention(x, x, x) + 1, backend=backend)
    x = torch.randn(1, 2, 4, 8)
    with regard.watch() as seen:
        function(x)
    assert len(seen) == 1
    assert graphs == []
    function(x)
    assert len(graphs) == 1


def test_inside_of_compiled_code_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match="open it around the call of the compiled one"):
        regard.watch()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    model, x = Tower().double(), torch.randn(2, 6, 16, dtype=torch.float64)
    with mode(), regard.watch(model) as seen:
        model(x)
    same(seen[0].weights, by_definition(*model.layers[0].projected(x)[:2]))
    assert not seen[0].weights.entropy().requires_grad


def test_the_output_is_bit_equal():
    model, x = Tower(function=F.scaled_dot_product_attention), torch.randn(2, 6, 16)
    plain = model(x)
    with regard.watch(model):
        assert torch.equal(model(x), plain)


def test_everything_is_as_it_was_after_an_error():
    class Fails(Attention):
        def forward(self, x):
            super().forward(x)
            raise ArithmeticError("of the model")

    model = Fails()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="of the model"), regard.watch(model), regard.watch():
            model(torch.randn(1, 3, 16))
    assert torch.overrides._len_torch_function_stack() == 0
    assert not model._forward_pre_hooks
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_an_error_while_it_opens_leaves_nothing_open(monkeypatch):
    from regard.watch import flash

    def fails():
        raise ArithmeticError("while it opens")

    model = Tower()
    monkeypatch.setattr(flash, "replaced", fails)
    with pytest.raises(ArithmeticError), regard.watch(model):
        pass
    monkeypatch.undo()
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert not model._forward_pre_hooks
    with regard.watch(model) as seen:
        model(torch.randn(1, 3, 16))
    assert len(seen) == 2


def test_each_thread_has_a_watch_of_its_own():
    model, x = Tower(), torch.randn(1, 4, 16)
    found = []

    def elsewhere():
        model(x)  # in a thread that nobody watches
        with regard.watch(model.layers[0]) as seen:
            model.layers[0](x)
        found.extend(seen.names)

    with regard.watch(model) as seen:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        model(x)
    assert seen.names == ["layers.0", "layers.1"]
    assert found == ["(model)"]


def test_watches_of_threads_that_overlap_leave_the_process_as_it_was():
    q = torch.randn(1, 2, 4, 8)
    first_is_open, second_is_open, stances = threading.Event(), threading.Event(), []

    def first():
        with regard.watch():
            F.scaled_dot_product_attention(q, q, q)
            first_is_open.set()
            assert second_is_open.wait(60)

    def second(one):
        assert first_is_open.wait(60)
        with regard.watch():
            F.scaled_dot_product_attention(q, q, q)
            second_is_open.set()
            one.join(60)  # it ends while this one goes on
            stances.append(torch._dynamo.eval_frame._stance.stance)

    one = threading.Thread(target=first)
    two = threading.Thread(target=second, args=(one,))
    try:
        for thread in (one, two):
            thread.start()
        for thread in (one, two):
            thread.join(60)
        assert stances == ["force_eager"]
        assert torch._dynamo.eval_frame._stance.stance == "default"
    finally:
        torch.compiler.set_stance("default")


def test_a_watch_is_closed_in_its_thread():
    model, errors = Tower(), []
    watch = regard.watch(model)
    watch.__enter__()
    model(torch.randn(1, 3, 16))

    def close():
        try:
            watch.__exit__(None, None, None)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join(60)
    watch.__exit__(None, None, None)
    assert [(type(error), str(error)) for error in errors] == [
        (RuntimeError, "this watch was opened in another thread, whose calls it sees; leave its block there")
    ]
    assert not model._forward_pre_hooks
    assert len(watch) == 2


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, saved])
def test_a_copy_of_a_model_that_is_watched_is_not_counted(copy_of):
    model, x = Tower(), torch.randn(1, 3, 16)
    with regard.watch(model) as seen:
        other = copy_of(model)
        other(x)
        model(x)
    assert [(record.name, record.step) for record in seen] == [("layers.0", 0), ("layers.1", 0)]
    assert torch.equal(other(x), model(x))
    saved(other)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return F.scaled_dot_product_attention(self.linear(x), x, x)


TRACERS = {
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "jit": lambda model, x: torch.jit.trace(model, x),
    "export": lambda model, x: torch.export.export(model, (x,), strict=False).module(),
    "strict": lambda model, x: torch.export.export(model, (x,), strict=True).module(),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TRACERS)
def test_a_model_is_traced_inside_of_the_block(name):
    model, x = Plain().eval(), torch.randn(1, 2, 4, 8)
    with regard.watch(model) as seen:
        traced = TRACERS[name](model, x)
        expected = model(x)
    same(seen[-1].weights, by_definition(model.linear(x), x), rtol=0, atol=1e-6)
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused():
    model = torch.jit.trace(Plain(), torch.randn(1, 2, 4, 8))
    with pytest.raises(TypeError, match=r"watch\(model\): a TorchScript module.*watch the module it was made from"):
        regard.watch(model)


def test_subclasses_and_other_modes_go_on_working():
    class Counting(torch.overrides.TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += func is F.scaled_dot_product_attention
            return func(*args, **(kwargs or {}))

    q = nn.Parameter(torch.randn(1, 2, 4, 8))
    with Counting() as outside, regard.watch() as seen, Counting() as inside:
        F.scaled_dot_product_attention(q, q, q)
    assert len(seen) == outside.count == inside.count == 1


def test_random_numbers_are_those_without_a_watch():
    model, x = Tower(), torch.randn(2, 6, 16)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        with warnings.catch_warnings():
            model(x, dropout_p=0.4)
            results.append(torch.rand(3))
        torch.manual_seed(5)
        with regard.watch(model, keep=["entropy", ("topk", 2)]):
            model(x, dropout_p=0.4)
            results.append(torch.rand(3))
    assert all(torch.equal(r, results[0]) for r in results)
