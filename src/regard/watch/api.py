"""watch(): record the attention of whatever runs inside a block."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard import attention_weights
from regard.watch import by_hand, flex, handlers, mha  # noqa: F401  each enters its handlers
from regard.watch.errors import UncompiledWarning
from regard.watch.held import HOLDS, Holder
from regard.watch.recorder import Question, Recorder
from regard.watch.seen import Seen

__all__ = ["watch"]

# The largest size that questions are tried with.
ROOM = 1024


def watch(
    model: nn.Module | None = None,
    *,
    modules: str | Sequence[str] | None = None,
    keep: Sequence[Question] | None = None,
    every: int = 1,
    detach: bool = True,
    hold: str = "reference",
) -> Seen:
    """Record every call of attention inside a block, with its weights: of any model, which is not changed.

    >>> import torch, regard
    >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
    >>> with regard.watch(model) as seen:
    ...     output = model(torch.randn(1, 10, 16))
    >>> seen.names
    ['layers.0.self_attn', 'layers.1.self_attn']
    >>> seen["layers.1.self_attn"].weights.entropy().shape
    torch.Size([1, 2, 10])

    Args:
        model: whose calls are recorded, and whose names the records have. None records all calls of this thread, with
            names relative to the outermost module that runs.
        modules: a pattern of names, or several ("layers.0*"), as in :mod:`fnmatch`: only calls of modules that match,
            or that are inside of one that does, are recorded.
        keep: questions that are answered when the call is seen, as :meth:`regard.AttentionWeights.ask` takes them;
            query and key are let go of. ``record.statistics`` has the answers. None keeps query and key.
        every: record each n-th forward of the model, from the first. Forwards are counted where the model is called,
            ``model(...)``: ``model.forward`` and parts that are called by themselves are not.
        detach: keep nothing of the autograd graph. With False, what is asked of the weights can be differentiated.
        hold: "reference" refers to query, key and masks as they are, and refuses to answer when they were written to;
            "copy" copies them; "cpu" copies them to the CPU.

    Returns:
        A :class:`regard.watch.Seen`, to be entered with ``with``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: ``modules`` that match nothing, questions that cannot be asked, ``every`` without a model.
        NoAttentionSeen: from the end of the block, where no call was seen, or, without a model, one of ``modules``
            matched nothing.
        RuntimeError: from the end of the block, where ``every`` is more than 1 and no forward was counted.

    Warns:
        UncompiledWarning: the model is compiled; inside the block it runs without its compiled code.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("regard.watch() inside a compiled function: open it around the call of the compiled one")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"watch(model): expected a torch.nn.Module or None, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "watch(model): a TorchScript module calls no functions that can be seen; watch the module it was made from"
        )
    patterns = _patterns(modules)
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"watch(every): expected an integer, got {type(every).__name__}")
    if every < 1:
        raise ValueError(f"watch(every): expected at least 1, got {every}")
    if every > 1 and model is None:
        raise ValueError(f"watch(every={every}): forwards are counted on a model; pass it: watch(model, every={every})")
    if hold not in HOLDS:
        raise ValueError(f"watch(hold): expected one of {', '.join(map(repr, HOLDS))}, got {hold!r}")
    if not detach and hold != "reference":
        raise ValueError(f"watch(detach=False, hold={hold!r}): a graph is that of the tensors; use hold='reference'")
    questions = _questions(keep)
    if model is not None:
        _warn_if_compiled(model)
    holder = Holder(hold, detach=detach)
    return Seen(Recorder(model, patterns=patterns, keep=questions, every=every, holder=holder))


def _patterns(modules: Any) -> list[str] | None:
    if modules is None:
        return None
    patterns = [modules] if isinstance(modules, str) else list(modules)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"watch(modules): expected a pattern of names or a list of them, got {modules!r}")
    return patterns


def _questions(keep: Any) -> list[Question] | None:
    """The questions, if they are some: asked of a tiny map, so that a mistake shows before a model has run."""
    if keep is None:
        return None
    if isinstance(keep, str | tuple) or callable(keep):
        raise TypeError(f"watch(keep): expected a list of questions, got {keep!r}; write keep=[{keep!r}]")
    questions = list(keep)
    if not questions:
        raise ValueError("watch(keep=[]): expected at least one question; None keeps query and key")
    for question in questions:
        _check_question(question)
    return questions


def _check_question(question: Any) -> None:
    """A mistake shows before a model has run: what is asked is asked of a small map first, where it has room."""
    try:
        hash(question)
    except TypeError:
        raise TypeError(
            f"watch(keep): {question!r} cannot be the key of an answer; ask it as a function of the weights: "
            "lambda weights: weights.mass([0, 1])"
        ) from None
    if callable(question):
        return
    parts = question if isinstance(question, tuple) else ()
    # A size stands for a larger one too: the map has room for the largest.
    small = tuple(max(-ROOM, min(a, ROOM)) if type(a) is int else a for a in parts)
    zeros = torch.zeros(1 + max((abs(a) for a in small if type(a) is int), default=0), 1, device="cpu")
    try:
        with torch._C.DisableTorchFunction():  # no context has anything to say of a trial
            attention_weights(zeros, zeros).ask(small or question)
    except (TypeError, ValueError, IndexError) as error:
        words = str(error)
        if words.startswith("weights.ask()"):
            raise type(error)(f"watch(keep): {words.removeprefix('weights.ask(): ')}") from None
        if isinstance(error, TypeError) or not any(isinstance(a, Tensor) for a in parts):
            raise type(error)(f"watch(keep): {question!r}: {words}") from None


def _warn_if_compiled(model: nn.Module) -> None:
    compiled = [
        name or "the model"
        for name, module in model.named_modules()
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
    ]
    if compiled:
        warnings.warn(
            f"{compiled[0]} is compiled, and runs uncompiled while it is watched: the same weights, at the speed of "
            "eager code; watch a few steps and run the others outside of the block, or watch the original module",
            UncompiledWarning,
            stacklevel=3,
        )
