from __future__ import annotations

import math

import torch

from regard.look import HeadScores, HeadTable
from regard.look.guide import best, where_to_look


def scored(layer: int, head: int, **changed: float) -> HeadScores:
    values = {
        "entropy": 3.0,
        "previous_token": 0.05,
        "first_token": 0.05,
        "induction": 0.03,
        "induction_chance": 0.02,
        "distance": 10.0,
        "concentration": 0.1,
    } | changed
    return HeadScores(layer=layer, head=head, top_key=0, **values)


def table(*heads: HeadScores, received: list[float] | None = None, tokens: tuple[str, ...] | None = None) -> HeadTable:
    margin = torch.tensor([received or [1.0, 1.0]])
    return HeadTable(heads, tokens, (torch.zeros_like(margin),), (margin,))


def test_the_strongest_induction_head_comes_first_with_its_chance() -> None:
    found = table(scored(0, 1), scored(2, 5, induction=0.614, induction_chance=0.021), scored(1, 0, induction=0.4))
    assert where_to_look(found)[0] == (
        "Layer 2 head 5 is the strongest induction head: where a token occurred before, 0.61 of its weight lies on "
        "what followed it then (chance 0.02)."
    )
    assert (best(found).layer, best(found).head) == (2, 5)


def test_an_induction_score_near_chance_is_not_called_one() -> None:
    found = table(scored(0, 1, induction=0.2, induction_chance=0.1), scored(1, 0, entropy=0.5))
    assert where_to_look(found)[0].startswith(
        "No head shows induction on this text: the best, layer 0 head 1, has 0.20"
    )
    assert (best(found).layer, best(found).head) == (1, 0)


def test_without_repeats_nothing_is_said_of_induction() -> None:
    found = table(scored(0, 0, induction=math.nan, induction_chance=math.nan))
    assert not any("induction" in sentence for sentence in where_to_look(found))


def test_previous_and_first_token_heads_are_counted() -> None:
    found = table(
        scored(0, 0, previous_token=0.94),
        scored(0, 1, previous_token=0.6),
        scored(1, 0, previous_token=0.5, first_token=0.2),
    )
    said = where_to_look(found)
    previous = "Layer 0 head 0 looks at the previous token: 0.94 of its weight lies there."
    assert f"{previous} 2 other heads give it at least half." in said
    assert "No head rests on the first token: the most is 0.20 of the weight, by layer 1 head 0." in said


def test_the_sharpest_and_the_farthest_head_are_named() -> None:
    said = where_to_look(table(scored(0, 0, entropy=math.log(4.0)), scored(1, 1, distance=1234.4)))
    assert "Layer 0 head 0 is the sharpest: its mean entropy is 1.39 nats, as if it chose among 4.0 keys." in said
    assert "Layer 1 head 1 looks farthest: 1,234 tokens away on average." in said


def test_the_most_attended_to_tokens_are_those_of_all_heads_together() -> None:
    one = torch.tensor([[5.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 4.0]])
    two = torch.tensor([[0.0, 1.0, 0.0, 6.0]])
    found = HeadTable((scored(0, 0),), ("a", "\n ", "c", "d"), (one, two), (one, two))
    assert where_to_look(found, tokens=3)[-1] == (
        "Most attended-to tokens, all heads together: “d” at 3 (60.0 %), “a” at 0 (25.0 %), “⏎·” at 1 (15.0 %)."
    )


def test_without_texts_tokens_go_by_their_position() -> None:
    assert where_to_look(table(scored(0, 0), received=[1.0, 3.0]))[-1].endswith("together: 1 (75.0 %), 0 (25.0 %).")


def test_a_hostile_token_cannot_write_to_the_terminal() -> None:
    said = where_to_look(table(scored(0, 0), tokens=("\x1b[2J\u202e", "b")))[-1]
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "“␛[2J<U+202E>”" in said
