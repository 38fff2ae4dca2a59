"""What the callbacks do at each event of a training; the classes of the trainers are mixed in where they are known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from regard.watch.callbacks_method import Training, WatchedMethod
from regard.watch.errors import NoAttentionSeen
from regard.watch.log_figures import Tally
from regard.watch.log_journal import Journal, Journalled, check_every
from regard.watch.log_targets import To

__all__ = ["HuggingFaceEvents", "LightningEvents"]


class Following(Journalled):
    """A callback that watches a method of a model on some steps, and what it has found."""

    remake: Callable[[], Any]

    def __init__(
        self,
        *,
        every: int,
        to: To | Sequence[To] | None,
        during: str,
        modules: str | Sequence[str] | None,
        entropy_below: float | None,
        logit_above: float | None,
    ) -> None:
        super().__init__()
        check_every(every)
        if during not in ("train", "evaluation"):
            raise ValueError(f"during is {during!r}; expected 'train' or 'evaluation'")
        self.every, self.during = every, during
        self._modules = modules
        self._journal = Journal(to, entropy_below, logit_above)
        self._tally = Tally()
        self._step: int | None = None  # the step that is watched
        self._calls = 0
        self._due: int | None = None  # the first step to watch of those to come; None before the training
        self._armed = ExitStack()
        self._training: Training | None = None
        self._skipped = False
        self._said: set[str] = set()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return self.remake, ()

    def _begin(self, start: int, *, writes: bool) -> None:
        self._disarm()
        self._due = -(-start // self.every) * self.every
        if writes:
            self._journal.begin(start, callback=True)

    def _is_due(self, step: int) -> bool:
        """Whether a step is to be watched; the trainer's number may leap over the one that was due."""
        if self._due is None or step < self._due:
            return False
        self._due = (step // self.every + 1) * self.every
        return True

    def _arm(
        self, step: int, model: nn.Module, method: str, wanted: Callable[[], bool], *, compiled: bool = False
    ) -> None:
        """Watch calls of a method of the model that are wanted, until the step ends or a call raises."""
        self._disarm()
        self._step, self._tally, self._calls, self._skipped = step, Tally(), 0, False
        if compiled:
            # Before the call, since the method is reached from inside of the compiled one.
            self._armed.enter_context(torch.compiler.set_stance("force_eager"))

        def around(call: Callable[[], Any]) -> Any:
            if self._training is not None and self._training.over():
                self._disarm()  # an exception has ended it, of which nobody was told
                return call()
            if not wanted():
                return call()
            returned = []
            try:
                with self._journal.watching(model, self._modules) as seen:
                    returned.append(call())
                self._tally.add(seen)
            except NoAttentionSeen:
                if not returned or not self._may_skip(model, returned[0]):
                    self._disarm()
                    raise
                self._skipped = True
            except BaseException:
                self._disarm()
                self._due = step  # where somebody catches it, the next step takes the place of this one
                raise
            return returned[0]

        self._armed.callback(WatchedMethod(model, method, around).remove)

    def _may_skip(self, model: nn.Module, output: Any) -> bool:
        """Whether what the method returned says that this batch is none of the training."""
        return False

    def _say(self, kind: str, what: str) -> None:
        """Warn of something, each kind once."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(what, UserWarning, stacklevel=3)

    def _nth(self) -> bool:
        """Whether this batch of an evaluation is one to watch."""
        self._calls += 1
        return (self._calls - 1) % self.every == 0

    def _settle(self, *, writes: bool) -> None:
        """The step is done: what was seen is written, and the model is as it was."""
        step, tally = self._step, self._tally
        self._disarm()
        if step is None:
            return
        if not tally:
            raise NoAttentionSeen(
                f"nothing was watched in step {step}: the model was not called, or something else in its place (with "
                "nn.DataParallel, copies of it: train with DistributedDataParallel)"
            )
        if not writes:
            return
        if len(self.history) and self.history[-1].step >= step:
            self._say(
                "second",
                f"step {step} has an entry already, and this evaluation is not logged: of several sets of texts, and "
                "of several evaluations at one step, the first is",
            )
            return
        self._journal.write(step, tally, writes=writes)

    def _disarm(self) -> None:
        self._step, self._tally = None, Tally()
        self._armed.close()


class HuggingFaceEvents(Following):
    """The events of ``transformers.Trainer``."""

    _counted: Tally  # of the batches of an evaluation; the other one has what may turn out to be none

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the file of a training that is resumed; look out for evaluations."""
        self._begin(state.global_step, writes=state.is_world_process_zero)
        self._training = Training()
        if self.during == "evaluation":
            self._arm_evaluation(args, state, kwargs["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Watch this step, if its turn has come."""
        self._forget()
        if self.during == "train" and self._is_due(state.global_step):
            model = kwargs["model"]
            self._arm(
                state.global_step,
                model,
                "forward",
                lambda: model.training and torch.is_grad_enabled(),
                compiled=_compiled(args, model),
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has made its step."""
        self._forget()
        if self.during == "train":
            self._settle(writes=state.is_world_process_zero)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What ran in evaluation mode before was no batch of an evaluation."""
        self._forget()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What ran in evaluation mode was a batch of an evaluation."""
        if self.during == "evaluation" and self._step is not None:
            self._calls += 1
            self._counted.join(self._tally)
            self._tally = Tally()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """What was counted was no evaluation."""
        if self.during == "evaluation" and self._step is not None:
            self._arm_evaluation(args, state, kwargs["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation is over."""
        if self.during != "evaluation":
            return
        if self._step is None:
            if state.is_world_process_zero:
                self._say(
                    "outside",
                    "this evaluation is not logged: it is outside of train(), and a callback is told of it when it is "
                    "over; evaluate within `with regard.watch.Log(model, every=1) as log:` instead",
                )
        else:
            self._step, self._tally = state.global_step, self._counted
            self._settle(writes=state.is_world_process_zero)
            self._arm_evaluation(args, state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave everything as it was."""
        self._disarm()
        self._journal.close()

    def _arm_evaluation(self, args: Any, state: Any, model: nn.Module) -> None:
        # Nothing tells of an evaluation before its first batch, so that its forwards are known by their mode.
        self._counted = Tally()
        self._arm(state.global_step, model, "forward", lambda: not model.training and self._calls % self.every == 0)

    def _forget(self) -> None:
        if self.during == "evaluation":
            self._tally = Tally()


class LightningEvents(Following):
    """The events of ``lightning.Trainer``."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Continue the file of a training that is resumed."""
        self._begin(trainer.global_step, writes=trainer.is_global_zero)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch this step, if its turn has come and it is not watched since an earlier micro-batch."""
        if self.during == "train" and self._step is None and self._is_due(trainer.global_step):
            self._arm(trainer.global_step, pl_module, "training_step", lambda: True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write, if the optimizer has made its step."""
        if self.during == "train" and self._step is not None and trainer.global_step != self._step:
            if self._skipped and not self._tally:
                self._disarm()
                self._due = trainer.global_step  # the next one takes its place
                return
            self._finish(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch this validation."""
        if self.during == "evaluation" and not trainer.sanity_checking:
            if self._due is None:  # a validation without a training
                self._begin(trainer.global_step, writes=trainer.is_global_zero)
            self._arm(trainer.global_step, pl_module, "validation_step", self._nth)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A validation is over."""
        if self.during == "evaluation":
            self._finish(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave everything as it was."""
        self._disarm()
        self._journal.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave everything as it was."""
        self._disarm()

    def _may_skip(self, model: nn.Module, output: Any) -> bool:
        # Lightning's own way to leave out a batch; by hand, a step returns what it likes.
        return self.during == "train" and output is None and bool(getattr(model, "automatic_optimization", False))

    def _finish(self, trainer: Any) -> None:
        before = len(self.history)
        self._settle(writes=trainer.is_global_zero)
        if len(self.history) > before and self._journal.silent:
            for logger in trainer.loggers:
                logger.log_metrics(self.history[-1].scalars(), step=self.history[-1].step)


def _compiled(args: Any, model: nn.Module) -> bool:
    """Whether the forward of the model is reached from compiled code."""
    return bool(getattr(args, "torch_compile", False)) or getattr(model, "_compiled_call_impl", None) is not None
