"""The callback of Lightning, in trainings that really run."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from tests.watch.logged_models import Model, expected

from regard.watch import NoAttentionSeen
from regard.watch.callbacks import LightningCallback
from regard.watch.log_figures import FIGURES
from regard.watch.log_history import History

# Both of Lightning's own: it calls what torch has deprecated, and speaks of data loaders without worker processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]
lightning = pytest.importorskip("lightning")

BATCHES = torch.randn(12, 6, 16, generator=torch.Generator().manual_seed(0))


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Model()
        self.given: list[tuple[str, int, list]] = []

    def training_step(self, batch, number):
        self.net.forget()
        loss = self.net(batch)
        self.given.append(("train", self.global_step, [list(layer.was_given) for layer in self.net.layers]))
        return loss

    def validation_step(self, batch, number):
        self.net.forget()
        self.net(batch)
        self.given.append(("evaluation", self.global_step, [list(layer.was_given) for layer in self.net.layers]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.02)


def loader() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(BATCHES, batch_size=2)  # six batches


def fit(folder: Path, callbacks: list, module: Module, *, resume: Path | None = None, **options):
    settings = {
        "max_steps": 5,
        "default_root_dir": folder,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
    }
    trainer = lightning.Trainer(callbacks=callbacks, **(settings | options))
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer


def assert_as_given(figures, module: Module, kind: str, batches: int) -> None:
    """The figures are those of what the module was given in that step, densely."""
    given = [layers for what, step, layers in module.given if (what, step) == (kind, figures.step)]
    assert len(given) == batches
    assert figures.names == ["net.layers.0", "net.layers.1"]
    for number, layer in enumerate(figures.layers):
        module.net.layers[number].was_given = [call for layers in given for call in layers[number]]
        wanted = expected(module.net.layers[number])
        for figure in FIGURES:
            torch.testing.assert_close(getattr(layer, figure), wanted[figure], rtol=0, atol=2e-5)


def test_each_logged_step_is_of_all_its_micro_batches(tmp_path):
    callback, module = LightningCallback(every=2, to=tmp_path / "a.csv"), Module()
    assert isinstance(callback, lightning.Callback)
    fit(tmp_path, [callback], module, accumulate_grad_batches=2, limit_val_batches=0)
    assert callback.history.steps == History.read(tmp_path / "a.csv").steps == [0, 2, 4]
    for figures in callback.history:
        assert_as_given(figures, module, "train", 2)
        assert figures.summary()["max_logit"] < 100  # what float32 says to the fifth place
    assert "training_step" not in module.__dict__
    assert torch._C._len_torch_function_stack() == 0


def test_validations_are_logged_only_when_asked(tmp_path):
    path = tmp_path / "a.csv"
    train, evaluation = LightningCallback(every=2), LightningCallback(every=1, during="evaluation", to=path)
    module = Module()
    fit(tmp_path, [train, evaluation], module, val_check_interval=3)  # between the steps 2 and 3
    assert train.history.steps == [0, 2, 4]
    for figures in train.history:
        assert_as_given(figures, module, "train", 1)
    assert evaluation.history.steps == History.read(path).steps == [3]  # and not the sanity check
    assert_as_given(evaluation.history[0], module, "evaluation", 6)
    assert "validation_step" not in module.__dict__


def test_a_validation_between_micro_batches_is_none_of_theirs(tmp_path):
    callback, module = LightningCallback(every=1), Module()
    # Steps of four micro-batches, a validation after every third.
    fit(tmp_path, [callback], module, max_steps=1, accumulate_grad_batches=4, val_check_interval=3)
    assert_as_given(callback.history[0], module, "train", 4)


def test_a_validation_alone(tmp_path):
    evaluation, module = LightningCallback(every=1, during="evaluation", to=tmp_path / "a.csv"), Module()

    def trainer(callback):
        options = {"enable_progress_bar": False, "default_root_dir": tmp_path}
        return lightning.Trainer(accelerator="cpu", logger=False, callbacks=[callback], **options)

    trainer(evaluation).validate(module, loader(), verbose=False)
    assert evaluation.history.steps == History.read(tmp_path / "a.csv").steps == [0]
    assert_as_given(evaluation.history[0], module, "evaluation", 6)
    again, before = LightningCallback(every=1, during="evaluation", to=tmp_path / "a.csv"), path_text(tmp_path)
    with pytest.raises(ValueError, match="of another run"):
        trainer(again).validate(module, loader(), verbose=False)
    assert path_text(tmp_path) == before


def path_text(folder: Path) -> str:
    return (folder / "a.csv").read_text()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    callback = LightningCallback(every=1, to=tmp_path / "a.csv")
    fit(tmp_path, [callback], Module(), max_steps=2, limit_val_batches=0)
    assert not (tmp_path / "a.csv").exists()
    assert len(callback.history) == 0


def test_without_a_target_the_loggers_of_the_trainer_get_it(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    class Remembering(CSVLogger):
        def __init__(self) -> None:
            super().__init__(tmp_path)
            self.told: list[tuple[int, dict]] = []

        def log_metrics(self, metrics, step=None):
            self.told.append((step, metrics))

    logger, callback = Remembering(), LightningCallback(every=3)
    fit(tmp_path, [callback], Module(), logger=logger, limit_val_batches=0)
    told = [(step, metrics) for step, metrics in logger.told if "attention/entropy" in metrics]
    assert told == [(figures.step, figures.scalars()) for figures in callback.history]
    assert [step for step, _ in told] == [0, 3]
    logger.told.clear()
    elsewhere = LightningCallback(every=3, to=lambda step, figures: None)
    fit(tmp_path, [elsewhere], Module(), logger=logger, limit_val_batches=0)
    assert not any("attention/entropy" in metrics for _, metrics in logger.told)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning")
def test_a_resumed_training_continues_its_file(tmp_path):
    path, checkpoint = tmp_path / "a.csv", tmp_path / "at3.ckpt"
    trainer = fit(tmp_path, [LightningCallback(every=2, to=path)], Module(), max_steps=3, limit_val_batches=0)
    trainer.save_checkpoint(checkpoint, weights_only=False)
    before = path.read_text()
    again = LightningCallback(every=2, to=path)
    fit(tmp_path, [again], Module(), resume=checkpoint, max_steps=7, limit_val_batches=0)
    assert History.read(path).steps == again.history.steps == [0, 2, 4, 6]
    assert path.read_text().startswith(before)


def test_an_exception_leaves_no_watch_behind(tmp_path):
    class Failing(Module):
        def training_step(self, batch, number):
            super().training_step(batch, number)
            raise ArithmeticError("on purpose")

    module = Failing()
    with pytest.raises(ArithmeticError, match="on purpose"):
        fit(tmp_path, [LightningCallback(every=1)], module)
    assert torch._C._len_torch_function_stack() == 0
    assert "training_step" not in module.__dict__


def test_a_step_without_attention_is_an_error(tmp_path):
    class Plain(Module):
        def training_step(self, batch, number):
            return self.net.layers[0].out.weight.square().mean()

    with pytest.raises(NoAttentionSeen):
        fit(tmp_path, [LightningCallback(every=1)], Plain())


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.*")
@pytest.mark.parametrize("skipped", [[0], [0, 1], [2]])
def test_a_step_that_is_skipped_stays_due(tmp_path, skipped):
    class Skipping(Module):
        def training_step(self, batch, number):
            return None if number in skipped else super().training_step(batch, number)

    callback, module = LightningCallback(every=2), Skipping()
    fit(tmp_path, [callback], module, limit_val_batches=0)
    assert callback.history.steps == {1: [1, 2, 4], 2: [2, 4]}[len(skipped)] if 0 in skipped else [0, 3, 4]
    for figures in callback.history:
        assert_as_given(figures, module, "train", 1)


def test_a_copy_has_the_same_settings():
    copied = pickle.loads(pickle.dumps(LightningCallback(every=7, during="evaluation")))
    assert (copied.every, copied.during, isinstance(copied, lightning.Callback)) == (7, "evaluation", True)


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    from regard.watch import callbacks

    for name in [name for name in sys.modules if name.startswith(("lightning", "pytorch_lightning"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs lightning or pytorch_lightning, and neither is installed"):
        LightningCallback()
