"""Several questions to the same weights, asked at once: those that need every entry share one sweep."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from regard import folds, weight_checks
from regard.folds import Fold

if TYPE_CHECKING:
    from regard.weights import AttentionWeights

__all__ = ["Question", "answers", "folds_of"]

#: The name of a method of AttentionWeights, that name and its arguments, or a function of AttentionWeights.
Question = str | tuple[Any, ...] | Callable[..., Any]

#: What can be asked, and how many arguments it takes: at least, at most.
ASKED = {
    "entropy": (0, 0),
    "received": (0, 0),
    "max_logit": (0, 0),
    "distance": (0, 0),
    "pool": (2, 3),
    "topk": (1, 1),
    "mass": (1, 1),
    "diagonal": (0, 1),
}


def answers(weights: AttentionWeights, questions: Sequence[Question]) -> tuple[Any, ...]:
    """What :meth:`AttentionWeights.ask` returns."""
    if not questions:
        raise ValueError(f"weights.ask(): expected at least one question, of {', '.join(ASKED)}")
    split = [_split(question) for question in questions]
    swept = {n: _fold(weights, name, given) for n, (name, given) in enumerate(split) if isinstance(name, str)}
    folded = {n: fold for n, fold in swept.items() if fold is not None}
    together = dict(zip(folded, weights._swept(list(folded.values())), strict=True)) if folded else {}
    found = []
    for n, (name, given) in enumerate(split):
        if n in together:
            found.append(together[n])
        else:
            found.append(getattr(weights, name)(*given) if isinstance(name, str) else name(weights))
    return tuple(found)


def folds_of(weights: Any, questions: Sequence[Question]) -> list[Fold]:
    """What adds up each answer in a sweep, for weights that answer by sweeps alone."""
    if not questions:
        raise ValueError(f"weights.ask(): expected at least one question, of {', '.join(ASKED)}")
    found = []
    for question in questions:
        name, given = _split(question)
        fold = _fold(weights, name, given) if isinstance(name, str) else None
        if fold is None:
            raise ValueError(f"weights.ask(): {question!r} is not answered by weights that are cut over ranks")
        found.append(fold)
    return found


def _split(question: Question) -> tuple[str | Callable[..., Any], tuple[Any, ...]]:
    """The method's name, or the function, and the arguments."""
    if not isinstance(question, str | tuple) and callable(question):
        return question, ()
    name, *given = question if isinstance(question, tuple) and question else (question,)
    if not isinstance(name, str):
        raise TypeError(
            "weights.ask(): a question is a name, a tuple of a name and its arguments, or a function of the weights, "
            f"got {question!r}"
        )
    if name not in ASKED:
        near = difflib.get_close_matches(name, ASKED, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"weights.ask(): {name!r} cannot be asked; expected one of {', '.join(ASKED)}{hint}")
    least, most = ASKED[name]
    if not least <= len(given) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"weights.ask(): {name} takes {wanted} arguments, as ({name!r}, ...), got {question!r}")
    return name, tuple(given)


def _fold(weights: Any, name: str, given: tuple[Any, ...]) -> Fold | None:
    """What adds up the answer in a sweep; None for what needs a few entries only."""
    if name == "pool":
        reduce = given[2] if len(given) == 3 else "mean"
        weight_checks.check_pool(given[0], given[1], reduce, weights.shape)
        return folds.Pool(given[0], given[1], reduce)
    if name == "topk":
        weight_checks.check_topk(given[0], weights.shape)
        return folds.TopRows(given[0])
    if name == "mass":
        return folds.Mass(weight_checks.key_set(given[0], weights.shape[-1], weights.device))
    if name == "diagonal":
        return None
    kinds = {
        "entropy": folds.Entropy,
        "received": folds.Received,
        "max_logit": folds.MaxLogit,
        "distance": folds.Distance,
    }
    return kinds[name]()
