"""Where to look first: the most telling heads and tokens, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from regard.look.wording import quoted

if TYPE_CHECKING:
    from regard.look.heads import HeadScores, HeadTable

#: A share of a head's weight below this is not called its pattern.
TELLING = 0.25

#: An induction score has to be this many times the chance level, and at least a tenth, to be called one.
ABOVE_CHANCE = 3.0
INDUCTION_LEAST = 0.1


def where_to_look(table: HeadTable, *, tokens: int = 5) -> list[str]:
    """The most telling heads and the most attended-to tokens, a plain sentence each.

    Args:
        table: the scores of all heads.
        tokens: how many tokens to name.

    Returns:
        Sentences, the most telling first.
    """
    sentences = [
        _induction(table),
        _share(table, "previous_token", "looks at the previous token", "No head keeps to the previous token"),
        _share(table, "first_token", "rests on the first token", "No head rests on the first token"),
        _sharpest(table),
        _farthest(table),
        _most_read(table, tokens),
    ]
    return [sentence for sentence in sentences if sentence]


def said_of_groups(groups: Sequence[tuple[str, HeadTable]]) -> list[str]:
    """Where to look in several groups of heads, each sentence under its group's name; of one group without it."""
    if len(groups) == 1:
        return where_to_look(groups[0][1])
    return [f"{name}: {sentence}" for name, table in groups for sentence in where_to_look(table)]


def best(table: HeadTable) -> HeadScores:
    """The head to look at first: the strongest induction head, or else the sharpest one."""
    leader = _top(table, lambda scores: scores.induction)
    if leader is not None and _is_induction(leader):
        return leader
    return _top(table, lambda scores: -scores.entropy) or table.heads[0]


def _induction(table: HeadTable) -> str:
    leader = _top(table, lambda scores: scores.induction)
    if leader is None:
        return ""
    chance = f"chance {leader.induction_chance:.2f}"
    if not _is_induction(leader):
        return (
            f"No head shows induction on this text: the best, {_name(table, leader)}, has {leader.induction:.2f} of "
            f"its weight on what followed earlier occurrences of the token ({chance})."
        )
    return (
        f"{_subject(table, leader)} is the strongest induction head: where a token occurred before, "
        f"{leader.induction:.2f} of its weight lies on what followed it then ({chance})."
    )


def _is_induction(scores: HeadScores) -> bool:
    return scores.induction >= max(INDUCTION_LEAST, ABOVE_CHANCE * scores.induction_chance)


def _share(table: HeadTable, score: str, does: str, none: str) -> str:
    leader = _top(table, lambda scores: float(getattr(scores, score)))
    if leader is None:
        return ""
    share = float(getattr(leader, score))
    if share < TELLING:
        return f"{none}: the most is {share:.2f} of the weight, by {_name(table, leader)}."
    others = sum(float(getattr(scores, score)) >= 0.5 for scores in table.heads if scores is not leader)
    more = f" {others} other head{'s give' if others > 1 else ' gives'} it at least half." if others else ""
    return f"{_subject(table, leader)} {does}: {share:.2f} of its weight lies there.{more}"


def _sharpest(table: HeadTable) -> str:
    leader = _top(table, lambda scores: -scores.entropy)
    if leader is None:
        return ""
    keys = math.exp(leader.entropy)
    return (
        f"{_subject(table, leader)} is the sharpest: its mean entropy is {leader.entropy:.2f} nats, "
        f"as if it chose among {keys:.1f} keys."
    )


def _farthest(table: HeadTable) -> str:
    leader = _top(table, lambda scores: scores.distance)
    if leader is None or leader.distance < 2:
        return ""
    return f"{_subject(table, leader)} looks farthest: {leader.distance:,.0f} tokens away on average."


def _most_read(table: HeadTable, count: int) -> str:
    """The keys that receive the most weight over all heads."""
    received = torch.stack([layer.double().sum(0) for layer in table.received]).sum(0)  # (S,)
    total = received.sum()
    if not bool(total > 0):
        return ""
    top = received.topk(min(count, len(received)))
    named = []
    for position, weight in zip(top.indices.tolist(), top.values.tolist(), strict=True):
        token = f"{quoted(table.tokens[position])} at " if table.tokens else ""
        named.append(f"{token}{position:,} ({100 * weight / float(total):.1f} %)")
    return f"Most attended-to tokens, all heads together: {', '.join(named)}."


def _top(table: HeadTable, score: Callable[[HeadScores], float]) -> HeadScores | None:
    asked = [scores for scores in table.heads if not math.isnan(score(scores))]
    return max(asked, key=score, default=None)


def _name(table: HeadTable, scores: HeadScores) -> str:
    """A head in the middle of a sentence."""
    layer = f"layer {scores.layer}" if table.names is None else table.names[scores.layer]
    return f"{layer} head {scores.head}"


def _subject(table: HeadTable, scores: HeadScores) -> str:
    """A head at the beginning of a sentence; the name of a module stays as it is."""
    name = _name(table, scores)
    return name.capitalize() if table.names is None else name
