"""The callback of Hugging Face's Trainer, in trainings that really run."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch

from regard.watch import NoAttentionSeen
from regard.watch.callbacks import TrainerCallback
from regard.watch.log_history import History

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

TEXTS = torch.randint(32, (16, 12), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": text, "labels": text} for text in TEXTS]


def tiny(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def trainer(folder: Path, callbacks: list, model: torch.nn.Module | None = None, **options):
    settings = {
        "max_steps": 5,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "learning_rate": 0.1,
        "dataloader_pin_memory": False,
    }
    arguments = transformers.TrainingArguments(str(folder), **(settings | options))
    return transformers.Trainer(
        model or tiny(), arguments, train_dataset=DATA, eval_dataset=DATA[:6], callbacks=callbacks
    )


def dense(model: torch.nn.Module, batches: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Entropy and first-token mass of each layer, (H,) each, from the model's own eager attentions in float64."""
    twin = tiny(attn_implementation="eager").double()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        layers = zip(*(twin(batch, output_attentions=True).attentions for batch in batches), strict=True)
    found = []
    for layer in layers:
        weights = torch.cat(layer)  # (B, H, L, S)
        entropy = -torch.special.xlogy(weights, weights).sum(-1).mean((0, 2))
        found.append({"entropy": entropy, "first_token": weights[..., 0].mean((0, 2))})
    return found


def assert_as_dense(figures, wanted) -> None:
    assert figures.names == [f"model.layers.{n}.self_attn" for n in range(2)]
    for layer, told in zip(figures.layers, wanted, strict=True):
        for name, value in told.items():
            torch.testing.assert_close(getattr(layer, name), value, rtol=0, atol=2e-5)


def test_each_logged_step_is_of_all_its_micro_batches(tmp_path):
    callback = TrainerCallback(every=2, to=tmp_path / "a.csv")
    assert isinstance(callback, transformers.TrainerCallback)
    model, batches = tiny(), {}
    before = {}

    class Remember(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            before[state.global_step] = pickle.loads(pickle.dumps(kwargs["model"].state_dict()))
            batches[state.global_step] = []

    t = trainer(tmp_path, [callback, Remember()], model, gradient_accumulation_steps=2)
    step = t.training_step

    def remembering(model, inputs, *rest):
        batches[t.state.global_step].append(inputs["input_ids"].clone())
        return step(model, inputs, *rest)

    t.training_step = remembering
    t.train()
    assert callback.history.steps == History.read(tmp_path / "a.csv").steps == [0, 2, 4]
    for figures in callback.history:
        assert len(batches[figures.step]) == 2
        model.load_state_dict(before[figures.step])
        assert_as_dense(figures, dense(model, batches[figures.step]))
    first, last = callback.history[0].layers[0], callback.history[2].layers[0]
    assert (first.entropy - last.entropy).abs().max() > 1e-3  # the weights moved: each step is of its own
    assert "forward" not in model.__dict__
    assert torch._C._len_torch_function_stack() == 0


def test_forwards_without_gradients_are_none_of_the_training(tmp_path):
    callback, model, batches = TrainerCallback(every=1), tiny(), []
    t = trainer(tmp_path, [callback], model, max_steps=1, learning_rate=0.0)
    step = t.training_step

    def sampling(given, inputs, *rest):
        given.train()
        with torch.no_grad():  # what a training by reinforcement generates
            given(input_ids=TEXTS[:3, :5])
        batches.append(inputs["input_ids"].clone())
        return step(given, inputs, *rest)

    t.training_step = sampling
    t.train()
    assert_as_dense(callback.history[0], dense(model, batches))


def test_evaluations_are_logged_only_when_asked(tmp_path):
    train, evaluation = TrainerCallback(every=2), TrainerCallback(every=1, during="evaluation")
    model = tiny()
    options = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
    t = trainer(tmp_path, [train, evaluation], model, max_steps=4, **options)
    t.train()
    assert train.history.steps == [0, 2]
    assert evaluation.history.steps == [2, 4]
    assert_as_dense(evaluation.history[1], dense(model, [TEXTS[0:2], TEXTS[2:4], TEXTS[4:6]]))
    assert "forward" not in model.__dict__


def test_every_nth_batch_of_an_evaluation(tmp_path):
    evaluation, model = TrainerCallback(every=2, during="evaluation"), tiny()
    options = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
    trainer(tmp_path, [evaluation], model, max_steps=2, **options).train()
    assert_as_dense(evaluation.history[0], dense(model, [TEXTS[0:2], TEXTS[4:6]]))


def test_the_first_of_several_evaluation_sets(tmp_path):
    evaluation, model = TrainerCallback(every=1, during="evaluation"), tiny()
    t = trainer(tmp_path, [evaluation], model, max_steps=2, eval_strategy="steps", eval_steps=2)
    t.eval_dataset = {"a": DATA[:6], "b": DATA[6:]}
    with pytest.warns(UserWarning, match="step 2 has an entry already, and this evaluation is not logged: of several"):
        t.train()
    assert evaluation.history.steps == [2]
    assert_as_dense(evaluation.history[0], dense(model, [TEXTS[:6]]))


@pytest.mark.parametrize("compiled", [False, True])
def test_checkpointing_and_compiling(tmp_path, compiled):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    callback, model, frames = TrainerCallback(every=3), tiny(), []
    model.activation_checkpointing_enable()
    if compiled:
        model.compile(backend="eager")
    t = trainer(tmp_path, [callback], model)
    step = t.training_step

    def counting(*given):
        loss = step(*given)
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
        return loss

    t.training_step = counting
    if compiled:
        with pytest.warns(UserWarning, match="runs uncompiled while it is watched"):
            t.train()
    else:
        t.train()
    assert callback.history.steps == [0, 3]
    assert frames == ([0, 1, 1, 1, 1] if compiled else [0] * 5)
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()


def test_a_resumed_training_continues_its_file(tmp_path):
    path, options = tmp_path / "a.csv", {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path, [TrainerCallback(every=2, to=path)], max_steps=5, **options).train()
    before = path.read_text()
    again = TrainerCallback(every=2, to=path)
    t = trainer(tmp_path, [again], max_steps=7, **options)
    t.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert History.read(path).steps == again.history.steps == [0, 2, 4, 6]
    assert path.read_text().startswith(before[: before.index("\n4,") + 1])
    fresh = trainer(tmp_path, [TrainerCallback(every=2, to=path)], **options)
    with pytest.raises(ValueError, match="of another run"):
        fresh.train()


def test_only_the_first_process_writes(tmp_path):
    class Other(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            state.is_world_process_zero = False

    callback = TrainerCallback(every=1, to=tmp_path / "a.csv")
    trainer(tmp_path, [Other(), callback], max_steps=2).train()
    assert not (tmp_path / "a.csv").exists()
    assert len(callback.history) == 0


def test_an_exception_leaves_no_watch_behind(tmp_path):
    model = tiny()
    forward = model.model.forward

    def interrupted(*args, **kwargs):
        forward(*args, **kwargs)
        raise KeyboardInterrupt

    model.model.forward = interrupted
    callback = TrainerCallback(every=1)
    t = trainer(tmp_path, [callback], model)
    with pytest.raises(KeyboardInterrupt):
        t.train()
    assert torch._C._len_torch_function_stack() == 0
    model.model.forward = forward
    t.train()
    assert callback.history.steps == [0, 1, 2, 3, 4]
    assert "forward" not in model.__dict__


def test_attention_that_cannot_be_watched_is_an_error(tmp_path):
    t = trainer(tmp_path, [TrainerCallback(every=1)], tiny(attn_implementation="eager"))
    with pytest.raises(NoAttentionSeen, match="attn_implementation='sdpa'"):
        t.train()


def test_a_model_that_is_not_called_is_an_error(tmp_path):
    t = trainer(tmp_path, [TrainerCallback(every=1)])
    t.training_step = lambda *given: torch.tensor(1.0)
    with pytest.raises(NoAttentionSeen, match="nothing was watched in step 0: the model was not called"):
        t.train()


def test_a_copy_has_the_same_settings():
    callback = TrainerCallback(every=7, during="evaluation", modules="model.layers.0*")
    copied = pickle.loads(pickle.dumps(callback))
    assert (type(copied), copied.every, copied.during) == (type(callback), 7, "evaluation")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="during is 'test'; expected 'train' or 'evaluation'"):
        TrainerCallback(during="test")
    with pytest.raises(ValueError, match="every is 0; expected at least 1"):
        TrainerCallback(every=0)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    from regard.watch import callbacks

    callbacks._hugging_face.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'regard\[hf\]'"):
        TrainerCallback()
