"""What the callbacks leave on a model, what they count as an evaluation, and trainings that start again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.watch.test_log_trainer import TEXTS, assert_as_dense, dense, tiny, trainer, transformers

from regard.watch.callbacks import TrainerCallback
from regard.watch.callbacks_method import WatchedMethod
from regard.watch.log_history import History

EVALUATED = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("during", ["train", "evaluation"])
def test_a_copy_made_in_a_step_is_its_own(tmp_path, copied, during):
    copies = []

    class Copy(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            copies.append(copied(kwargs["model"]))

    model = tiny()
    callback = TrainerCallback(every=1, during=during)
    trainer(tmp_path, [callback, Copy()], model, max_steps=1, eval_strategy="steps", eval_steps=1).train()
    with torch.no_grad():
        for weight in copies[0].parameters():
            weight.zero_()
        assert copies[0](input_ids=TEXTS[:2]).logits.abs().max() == 0
        assert model(input_ids=TEXTS[:2]).logits.abs().max() > 0
    assert copies[0].forward.__self__ is copies[0]


def failing(model: torch.nn.Module, *, inside: bool) -> None:
    def fail(*given):
        raise ArithmeticError("on purpose")

    if inside:
        model.lm_head.register_forward_hook(fail)
    else:  # in the backward pass
        model.model.embed_tokens.weight.register_hook(fail)


@pytest.mark.parametrize("inside", [True, False])
def test_an_exception_leaves_nothing(tmp_path, inside):
    model, callback = tiny(), TrainerCallback(every=1)
    failing(model, inside=inside)
    t = trainer(tmp_path, [callback], model)
    with pytest.raises(ArithmeticError):
        t.train()
    if not inside:  # nobody is told of it, so that the next call finds out, and is not watched
        model.train()
        model(input_ids=TEXTS[:2])
    assert "forward" not in model.__dict__
    assert not callback._tally
    assert torch._C._len_torch_function_stack() == 0


def test_a_training_and_its_evaluations_need_two_files(tmp_path):
    path = tmp_path / "a.csv"
    both = [TrainerCallback(every=1, to=path), TrainerCallback(every=1, to=path, during="evaluation")]
    with pytest.raises(RuntimeError, match="another log or callback writes to the same file"):
        trainer(tmp_path, both, **EVALUATED).train()
    assert History.read(path).steps == [0, 1]


def test_a_second_training_replaces_its_own_rows_alone(tmp_path):
    path = tmp_path / "a.csv"
    callback = TrainerCallback(every=1, to=path)
    t = trainer(tmp_path, [callback], max_steps=3)
    t.train()
    t.train()
    assert History.read(path).steps == callback.history.steps == [0, 1, 2]
    with pytest.raises(ValueError, match="of another run") as refused:
        trainer(tmp_path, [TrainerCallback(every=1, to=path)]).train()
    assert "start=" not in str(refused.value)
    assert "checkpoint" in str(refused.value)


def test_a_training_that_is_tried_again_with_smaller_batches(tmp_path):
    path, seen = tmp_path / "a.csv", []
    callback = TrainerCallback(every=1, to=path)
    t = trainer(tmp_path, [callback], max_steps=3, auto_find_batch_size=True)
    inner = t.training_step

    def short_of_memory(model, inputs, *rest):
        seen.append(len(inputs["input_ids"]))
        if len(seen) == 3:
            raise RuntimeError("CUDA out of memory.")
        return inner(model, inputs, *rest)

    t.training_step = short_of_memory
    t.train()
    assert len(set(seen)) == 2
    assert History.read(path).steps == callback.history.steps == [0, 1, 2]


def test_what_others_run_in_evaluation_mode_is_no_evaluation(tmp_path):
    class Sample(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            model = kwargs["model"].eval()
            with torch.no_grad():
                model(input_ids=TEXTS[:3, :5])
            model.train()

    evaluation, model = TrainerCallback(every=2, during="evaluation"), tiny()
    trainer(tmp_path, [Sample(), evaluation], model, **EVALUATED).train()
    assert evaluation.history.steps == [2, 4]
    assert_as_dense(evaluation.history[1], dense(model, [TEXTS[0:2], TEXTS[4:6]]))


def test_an_evaluation_outside_of_the_training_is_warned_of(tmp_path):
    evaluation = TrainerCallback(every=1, during="evaluation")
    t = trainer(tmp_path, [evaluation], **EVALUATED)
    t.train()
    with pytest.warns(UserWarning, match=r"this evaluation is not logged: it is outside of train\(\)"):
        t.evaluate()
    t.evaluate()  # said once
    assert evaluation.history.steps == [2, 4]


@pytest.mark.parametrize("first", [0, 1])
def test_two_that_watch_one_method_leave_nothing_in_any_order(first):
    model = tiny()
    methods = [WatchedMethod(model, "forward", lambda call: call()) for _ in range(2)]
    assert model(input_ids=TEXTS[:2]).logits.shape == (2, 12, 32)
    methods[first].remove()
    assert copy.deepcopy(model).forward.__func__ is type(model).forward
    methods[1 - first].remove()
    assert "forward" not in model.__dict__
