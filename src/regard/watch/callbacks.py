"""Logs for those who do not write the loop themselves: callbacks of Hugging Face's Trainer and of Lightning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from regard.watch.callbacks_events import HuggingFaceEvents, LightningEvents
from regard.watch.log_targets import To

__all__ = ["LightningCallback", "TrainerCallback"]


def TrainerCallback(
    *,
    every: int = 100,
    to: To | Sequence[To] | None = None,
    during: str = "train",
    modules: str | Sequence[str] | None = None,
    entropy_below: float | None = None,
    logit_above: float | None = None,
) -> HuggingFaceEvents:
    """A callback of Hugging Face's Trainer that logs what :class:`regard.watch.Log` does.

    .. code-block:: python

        trainer = Trainer(model, args, train_dataset=texts,
                          callbacks=[regard.watch.TrainerCallback(every=100, to="runs/attention.csv")])
        trainer.train()

    One entry a step of the optimizer: the micro-batches of an accumulated gradient count together. Only forwards in
    training are watched, that is those of the model in training mode and with gradients. A training that is resumed
    continues its file. The model needs attention that can be watched: ``attn_implementation="sdpa"``, or "regard".

    A second ``train()`` with the same callback starts its file again. A callback that calls the model in evaluation
    mode belongs before this one in the list, so that its calls are not taken for those of an evaluation.

    Args:
        every: how many steps of the optimizer from one that is logged to the next; of evaluations, how many batches.
        to: as in :class:`regard.watch.Log`.
        during: "train", or "evaluation" for the evaluations of a training instead: one entry an evaluation, of each
            ``every``-th batch of it, under the number of the step: of several sets of texts the first, and within
            ``train()`` only; a warning says what is left out. For both, add two callbacks, each with a path of its own.
        modules: patterns of names: these layers only.
        entropy_below: as in :class:`regard.watch.Log`.
        logit_above: as in :class:`regard.watch.Log`.

    Returns:
        A ``transformers.TrainerCallback`` with ``history``, ``alarms`` and ``plot()``.

    Raises:
        ImportError: transformers is not installed.
        TypeError: an argument of the wrong type.
        ValueError: numbers out of their range.
    """
    callback: HuggingFaceEvents = _made(
        TrainerCallback,
        _hugging_face(during),
        every=every,
        to=to,
        during=during,
        modules=modules,
        entropy_below=entropy_below,
        logit_above=logit_above,
    )
    return callback


def LightningCallback(
    *,
    every: int = 100,
    to: To | Sequence[To] | None = None,
    during: str = "train",
    modules: str | Sequence[str] | None = None,
    entropy_below: float | None = None,
    logit_above: float | None = None,
) -> LightningEvents:
    """A callback of Lightning's Trainer that logs what :class:`regard.watch.Log` does.

    .. code-block:: python

        trainer = lightning.Trainer(max_steps=1000, callbacks=[regard.watch.LightningCallback(every=100)])
        trainer.fit(module, loader)

    One entry a step of the optimizer: the micro-batches of an accumulated gradient count together. What is watched is
    ``training_step``, whatever it calls; where it skips the batches of a step, the next one is logged.

    Args:
        every: how many steps of the optimizer from one that is logged to the next; of validations, how many batches.
        to: as in :class:`regard.watch.Log`; None gives the scalars to the loggers of the Trainer.
        during: "train", or "evaluation" for the validations instead: one entry a validation, of each ``every``-th batch
            of it, under the number of the step; sanity checks apart. For both, add two callbacks, each with a path of
            its own.
        modules: patterns of names: these layers only.
        entropy_below: as in :class:`regard.watch.Log`.
        logit_above: as in :class:`regard.watch.Log`.

    Returns:
        A ``Callback`` of ``lightning`` or ``pytorch_lightning``, with ``history``, ``alarms`` and ``plot()``.

    Raises:
        ImportError: neither of the two is installed.
        TypeError: an argument of the wrong type.
        ValueError: numbers out of their range.
    """
    callback: LightningEvents = _made(
        LightningCallback,
        _lightning(during, _lightning_packages()),
        every=every,
        to=to,
        during=during,
        modules=modules,
        entropy_below=entropy_below,
        logit_above=logit_above,
    )
    return callback


def _made(maker: Any, kind: Any, **settings: Any) -> Any:
    callback = kind(**settings)
    # Lightning sends callbacks to the processes that it starts, and a class made in a function is found by nobody.
    callback.remake = partial(maker, **settings)
    return callback


@cache
def _hugging_face(during: str) -> Any:
    # A class for each: the Trainer warns of two callbacks of one class.
    try:
        base = import_module("transformers").TrainerCallback
    except ImportError as error:
        raise ImportError(
            "regard.watch.TrainerCallback needs transformers, which is not installed: pip install 'regard[hf]'",
            name="transformers",
        ) from error
    return type(
        "TrainerCallback", (HuggingFaceEvents, base), {"__module__": __name__, "__doc__": TrainerCallback.__doc__}
    )


def _lightning_packages() -> tuple[str, ...]:
    """Those that are in use; else the one that is installed. A trainer takes callbacks of its own package."""
    packages = ("lightning.pytorch", "pytorch_lightning")
    loaded = tuple(name for name in packages if name in sys.modules)
    if loaded:
        return loaded
    for name in packages:
        if find_spec(name.partition(".")[0]) is not None:
            return (name,)
    raise ImportError(
        "regard.watch.LightningCallback needs lightning or pytorch_lightning, and neither is installed: "
        "pip install lightning",
        name="lightning",
    )


@cache
def _lightning(during: str, packages: tuple[str, ...]) -> Any:
    bases = tuple(import_module(name).Callback for name in packages)
    return type(
        "LightningCallback", (LightningEvents, *bases), {"__module__": __name__, "__doc__": LightningCallback.__doc__}
    )
