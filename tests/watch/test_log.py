"""Log: its figures against dense float64, which steps it watches, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from tests.watch.logged_models import HEADS, Model, expected
from torch import nn
from torch.utils.checkpoint import checkpoint

from regard.watch import NoAttentionSeen, UncompiledWarning
from regard.watch.log import Log
from regard.watch.log_figures import FIGURES, Figures, LayerFigures
from regard.watch.log_journal import AttentionAlarm

NEAR = {"rtol": 0, "atol": 2e-5}


def assert_as_expected(figures: Figures, model: Model, **near: float) -> None:
    assert figures.names == [f"layers.{n}" for n in range(len(model.layers))]
    for layer, told in zip(model.layers, figures.layers, strict=True):
        wanted = expected(layer)
        for figure in FIGURES:
            torch.testing.assert_close(getattr(told, figure), wanted[figure], **(near or NEAR))


def test_figures_are_those_of_the_dense_weights():
    model = Model()
    log = Log(model, every=1)
    with log:
        model(torch.randn(3, 11, 16))
    assert_as_expected(log.history[0], model)
    # The heads differ, so that an exchange of heads, or a mean in their place, would show.
    assert all(getattr(log.history[0].layers[0], figure).unique().numel() == HEADS for figure in FIGURES)
    assert log.history[0].layers[0].keys == 11


def test_float64_is_kept():
    model = Model().double()
    log = Log(model, every=1)
    with log:
        model(torch.randn(2, 7, 16, dtype=torch.float64))
    assert_as_expected(log.history[0], model, rtol=0, atol=1e-12)


def test_micro_batches_of_one_step_count_as_one_batch():
    model = Model()
    log = Log(model, every=1)
    with log:  # other lengths and other sizes: a mean of means would be off
        model(torch.randn(1, 5, 16))
        model(torch.randn(4, 13, 16))
    assert_as_expected(log.history[0], model)
    assert log.history[0].layers[0].keys == 13


def test_several_calls_of_one_module():
    model = Model(layers=1, calls=3)
    log = Log(model, every=1)
    with log:
        model(torch.randn(2, 6, 16))
    assert len(model.layers[0].was_given) == 3
    assert_as_expected(log.history[0], model)


def test_rows_that_may_read_nothing_do_not_count():
    lengths = torch.tensor([2, 9])
    valid = torch.arange(9) < lengths[:, None]  # (B, L)
    allowed = valid[:, None, None] & valid[:, None, :, None] & torch.ones(9, 9, dtype=torch.bool).tril()
    model = Model(layers=1)
    log = Log(model, every=1)
    with log:
        model(torch.randn(2, 9, 16), allowed)
    assert_as_expected(log.history[0], model)


def test_a_nan_shows():
    model = Model(layers=1)
    with torch.no_grad():
        model.layers[0].q.weight[0] = torch.nan  # of the first head
    log = Log(model, every=1, logit_above=1e9)
    with pytest.warns(AttentionAlarm, match="the largest logit of layers.0 is nan"), log:
        model(torch.randn(2, 6, 16))
    layer = log.history[0].layers[0]
    for figure in FIGURES:
        assert getattr(layer, figure).isnan().tolist() == [True, False, False, False]
    assert all(math.isnan(value) for value in layer.summary().values())


def test_a_nan_in_one_row_shows():
    model, x = Model(layers=1), torch.randn(1, 6, 16)
    x[0, -1] = torch.nan  # the last row alone, since none before reads it
    log = Log(model, every=1)
    with log:
        model(x)
    assert all(getattr(log.history[0].layers[0], figure).isnan().all() for figure in FIGURES)


def test_inputs_without_heads():
    q, k = torch.randn(5, 6, 8).double(), torch.randn(5, 6, 8).double()
    log = Log(None, every=1)
    with log:
        nn.functional.scaled_dot_product_attention(q, k, k)
    (layer,) = log.history[0].layers
    weights = (q @ k.mT / 8**0.5).softmax(-1)
    wanted = -(weights * weights.log()).sum(-1).mean()
    torch.testing.assert_close(layer.entropy, wanted[None], rtol=0, atol=1e-12)


def test_two_attentions_of_one_layer_with_other_heads_are_two():
    class Both(nn.Module):
        def forward(self, x):
            for heads in (2, 4):
                split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
                nn.functional.scaled_dot_product_attention(split, split, split)

    model = Both()
    log = Log(model, every=1)
    with log:
        model(torch.randn(2, 5, 8))
    assert [name.removeprefix("(model)") for name in log.history[0]] == [" (2 heads)", " (4 heads)"]
    assert [layer.entropy.numel() for layer in log.history[0].layers] == [2, 4]


def test_only_every_nth_step_is_watched():
    model, depths = Model(layers=1), []
    log = Log(model, every=3, start=4)
    for _ in range(6):
        with log:
            depths.append(torch._C._len_torch_function_stack())
            model(torch.randn(1, 4, 16))
    assert log.history.steps == [6, 9]
    assert depths == [0, 0, 1, 0, 0, 1]
    assert log.step == 10
    assert torch._C._len_torch_function_stack() == 0


def test_training_is_the_same_with_a_log():
    def trained(*, logged: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = Model()
        log = Log(model, every=2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(4):
            optimizer.zero_grad()
            if logged:
                with log:
                    loss = model(torch.randn(2, 6, 16))
            else:
                loss = model(torch.randn(2, 6, 16))
            loss.backward()
            optimizer.step()
        return list(model.parameters())

    assert all(torch.equal(a, b) for a, b in zip(trained(logged=True), trained(logged=False), strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_once(reentrant: bool):
    model = Model()
    log = Log(model, every=1)
    x = torch.randn(2, 6, 16, requires_grad=True)
    with log:  # with the backward pass, which runs the forwards again
        h = x
        for layer in model.layers:
            h = checkpoint(layer, h, None, use_reentrant=reentrant)
        h.square().mean().backward()
    assert x.grad is not None
    assert all(len(layer.was_given) == 1 for layer in model.layers)
    assert_as_expected(log.history[0], model)


def test_autocast():
    model = Model(layers=1)
    log = Log(model, every=1)
    with log, torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 6, 16))
    assert_as_expected(log.history[0], model, rtol=0, atol=2e-5)


def test_a_compiled_model_is_compiled_between():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Model(layers=1)
    compiled = torch.compile(model, backend="eager")
    x, frames = torch.randn(2, 6, 16), []
    log = Log(compiled, every=2)

    def four_steps() -> None:
        for _ in range(4):
            with log:
                compiled(x)
            frames.append(torch._dynamo.utils.counters["frames"]["ok"])

    with pytest.warns(UncompiledWarning) as warned:
        four_steps()
    assert len(warned) == 1
    torch._dynamo.reset()
    assert log.history.steps == [0, 2]
    assert frames == [0, 1, 1, 1]
    assert len(model.layers[0].was_given) == 2  # the same input twice, eagerly
    assert_as_expected(log.history[0], model)


def test_an_exception_ends_the_watch_and_logs_nothing():
    model = Model(layers=1)
    log = Log(model, every=1)

    def interrupted() -> None:
        with log:
            model(torch.randn(1, 4, 16))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch._C._len_torch_function_stack() == 0
    assert len(log.history) == 0
    with log:
        model(torch.randn(1, 4, 16))
    assert log.history.steps == [1]


def test_an_exception_before_any_attention_is_the_one_that_is_raised():
    with pytest.raises(ZeroDivisionError), Log(Model(), every=1):
        _ = 1 / 0


def test_only_some_modules():
    model = Model()
    log = Log(model, every=1, modules="layers.1")
    with log:
        model(torch.randn(1, 4, 16))
    assert log.history[0].names == ["layers.1"]


def test_a_step_without_attention_is_an_error():
    with pytest.raises(NoAttentionSeen), Log(Model(), every=1):
        pass


def test_alarms_are_warned_of_once_a_layer():
    model = Model()
    log = Log(model, every=1, entropy_below=0.99, logit_above=0.01)

    def three_steps() -> None:
        for _ in range(3):
            with log:
                model(torch.randn(2, 6, 16))

    with pytest.warns(AttentionAlarm) as warned:
        three_steps()
    assert len(warned) == 4
    assert warned[0].filename == __file__
    assert len(log.alarms) == 12
    assert {(alarm.layer, alarm.figure) for alarm in log.alarms} == {
        (layer, figure) for layer in ("layers.0", "layers.1") for figure in ("entropy", "max_logit")
    }
    entropy = log.history[0]["layers.0"].entropy.mean()
    assert (log.alarms[0].value, log.alarms[0].bound) == (pytest.approx(entropy.item()), 0.99 * math.log(6))


def test_no_alarm_within_the_bounds():
    model = Model()
    log = Log(model, every=1, entropy_below=0.01, logit_above=1e4)
    with log:
        model(torch.randn(2, 6, 16))
    assert log.alarms == []


def test_summary_and_scalars():
    one = LayerFigures("a", *torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.25, 0.75]]).double(), keys=8)
    two = LayerFigures("b", *torch.tensor([[0.5], [9.0], [0.5]]).double(), keys=16)
    figures = Figures(7, (one, two))
    model = {"entropy": 3.5 / 3, "min_entropy": 0.5, "max_logit": 9.0, "first_token": 0.5}
    assert figures.summary() == pytest.approx(model)
    assert figures.scalars() == {
        **{f"attention/{name}": pytest.approx(value) for name, value in model.items()},
        **{f"attention_{name}/a": value for name, value in one.summary().items()},
        **{f"attention_{name}/b": value for name, value in two.summary().items()},
    }
    assert "max logit" in repr(figures)
    with pytest.raises(KeyError, match="no layer 'c' in the figures; expected one of 'a', 'b'"):
        figures["c"]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"every": 0}, ValueError, "every is 0; expected at least 1"),
        ({"every": 2.0}, TypeError, "every: expected a whole number of steps, got float"),
        ({"start": -1}, ValueError, "start is -1; expected the number of the first step"),
        ({"start": "3"}, TypeError, "start: expected the number of the first step, got str"),
        ({"entropy_below": 5.0}, ValueError, r"entropy_below is 5.0; expected a share of log\(keys\)"),
        ({"logit_above": -3}, ValueError, "logit_above is -3; expected a positive logit"),
        ({"to": 3}, TypeError, r"to: expected a path that ends in .csv, .* got int"),
        ({"to": "a.json"}, ValueError, r"to='a.json': expected a path that ends in .csv, or a folder"),
    ],
)
def test_wrong_arguments(given, kind, words):
    with pytest.raises(kind, match=words):
        Log(Model(), **given)


def test_no_module():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module or None, got str"):
        Log("model")


def test_nested_steps_are_refused():
    log = Log(Model(), every=5, start=1)
    with log, pytest.raises(RuntimeError, match="one `with log:` is one step"), log:
        pass


def test_other_ranks_watch_and_do_not_write(tmp_path):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    path, told = tmp_path / "a.csv", []
    path.write_text("what rank 0 has written already, and this one has no business with")
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        model = Model(layers=1)
        log = Log(model, every=1, to=[path, lambda step, figures: told.append(step)])
        with log:
            # What rank 0 runs uncompiled has to run so here.
            assert torch._C._len_torch_function_stack() == 1
            model(torch.randn(1, 4, 16))
    finally:
        torch.distributed.destroy_process_group()
    assert path.read_text().startswith("what rank 0 has written")
    assert (told, len(log.history)) == ([], 0)
