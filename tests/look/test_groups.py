from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.look import decoded

import regard
from regard import AttentionWeights, masks
from regard.look.collect import page_data
from regard.look.groups import grouped
from regard.look.measure import measure

Make = Callable[..., AttentionWeights]


def read(*args: Any, **options: Any) -> dict[str, Any]:
    return json.loads(page_data(measure(*args, **options)).to_json())


def queries_and_keys(page: dict[str, Any], group: dict[str, Any]) -> tuple[list[str] | None, list[str] | None]:
    found = [None if group[n] is None else decoded.texts(page, group[n]) for n in ("query_tokens", "key_tokens")]
    return found[0], found[1]


def test_layers_of_other_lengths_are_groups_named_by_their_shape(some_weights: Make) -> None:
    page = read([some_weights(1, 2, 4, 4), some_weights(1, 1, 4, 6), some_weights(1, 2, 4, 4)], tokens=list("abcdef"))
    assert [group["name"] for group in page["groups"]] == ["4 x 4", "4 x 6"]
    assert [group["layers"] for group in page["groups"]] == [["layer 0", "layer 2"], ["layer 1"]]
    assert [(head["layer"], head["head"]) for head in page["groups"][0]["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert queries_and_keys(page, page["groups"][0]) == (None, None)
    assert queries_and_keys(page, page["groups"][1]) == (list("cdef"), list("abcdef"))
    assert [group["shift"] for group in page["groups"]] == [0, 2]
    assert any(sentence.startswith("4 x 6: ") for sentence in page["guide"])


def test_a_mapping_makes_tabs_and_names_layers(some_weights: Make) -> None:
    page = read(
        {
            "encoder": [some_weights(1, 2, 5, 5)],
            "decoder": {"decoder.0.self_attn": some_weights(1, 2, 3, 3, mask=masks.causal())},
            "cross": some_weights(1, 2, 3, 5),
        },
        tokens={"encoder": list("abcde"), "decoder": list("xyz")},
    )
    encoder, decoder, cross = page["groups"]
    assert [group["name"] for group in page["groups"]] == ["encoder", "decoder", "cross"]
    assert decoder["layers"] == ["decoder.0.self_attn"]
    assert queries_and_keys(page, encoder) == (list("abcde"), list("abcde"))
    assert queries_and_keys(page, cross) == (list("xyz"), list("abcde"))
    assert [group["shift"] for group in page["groups"]] == [0, 0, None]
    assert len(page["texts"]) == 2
    scores = cross["heads"][0]["scores"]
    assert (scores["distance"], scores["previous_token"], scores["induction"]) == (None, None, None)
    assert any("decoder.0.self_attn head" in sentence for sentence in page["guide"])
    assert "diagonal" not in str(cross["heads"][0]["windows"])


def test_queries_of_another_text(some_weights: Make) -> None:
    page = read([some_weights(1, 1, 3, 5)], tokens=list("abcde"), query_tokens=list("xyz"))
    assert page["groups"][0]["shift"] is None
    assert queries_and_keys(page, page["groups"][0]) == (list("xyz"), list("abcde"))
    # More queries than keys: they cannot be the last of them.
    page = read([some_weights(1, 1, 5, 3)], tokens=list("abc"))
    assert page["groups"][0]["shift"] is None
    assert queries_and_keys(page, page["groups"][0]) == (None, list("abc"))
    layers = {"self": some_weights(1, 1, 5, 5), "cross": some_weights(1, 1, 3, 5)}
    page = read(layers, tokens=list("abcde"), query_tokens=list("xyz"))
    assert [queries_and_keys(page, group)[0] for group in page["groups"]] == [list("abcde"), list("xyz")]


def test_a_models_output_makes_its_own_tabs() -> None:
    def some(*shape: int) -> torch.Tensor:
        return torch.softmax(torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0)), -1)

    output = OrderedDict(logits=torch.zeros(1), attentions=(some(4, 4),) * 3)
    assert [(g["name"], len(g["layers"])) for g in read(output)["groups"]] == [("", 3)]
    output["cross_attentions"] = ()  # as BERT returns it
    assert [(g["name"], len(g["layers"])) for g in read(output)["groups"]] == [("", 3)]
    output = OrderedDict(
        encoder_attentions=(some(4, 4),), decoder_attentions=(some(3, 3),), cross_attentions=(some(3, 4),)
    )
    page = read(output)
    assert [group["name"] for group in page["groups"]] == ["encoder", "decoder", "cross"]
    assert [group["shift"] for group in page["groups"]] == [0, 0, None]


def test_records_bring_their_names(some_weights: Make) -> None:
    records = [SimpleNamespace(name=f"blocks.{n}.attn", weights=some_weights(1, 1, 4, 4)) for n in range(2)]
    assert read(records)["groups"][0]["layers"] == ["blocks.0.attn", "blocks.1.attn"]


def test_raw_symbols_are_shown_as_text(some_weights: Make) -> None:
    tokens = ["The", "\u0120cat", "\u0120\u0120", "\u010a"]
    page = read([some_weights(1, 1, 4, 4)], tokens=tokens)
    assert decoded.texts(page, 0) == ["The", " cat", "  ", "\n"]


def test_tabs_stand_in_the_order_of_a_reader_and_not_of_the_output(some_weights: Make) -> None:
    names = ("decoder_attentions", "cross_attentions", "encoder_attentions")
    outputs = {name: (some_weights(1, 1, 4, 4).to_dense(),) for name in names}
    assert [group.name for group in measure(outputs).groups] == ["encoder", "decoder", "cross"]


def test_groups_without_tokens_are_told_of(some_weights: Make) -> None:
    weights = [some_weights(1, 1, 4, 4), some_weights(1, 1, 6, 6)]
    note = "6 x 6: no tokens of 6 keys were given, so that they are numbered"
    assert regard.look(weights, list("abcd")).data.notes == (note,)
    assert regard.look(weights).data.notes == ()
    assert regard.look(weights[:1], list("abcd")).data.notes == ()
    both = {"a": weights[0], "b": weights[1]}
    assert regard.look(both, {"a": list("abcd")}).data.notes == (note.replace("6 x 6", "b"),)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tokens": ["a"]}, ValueError, r"tokens holds 1 entries, but weights has 4 keys; expected one a key"),
        ({"token_ids": [1]}, ValueError, r"token_ids holds 1 entries, but weights has 4 keys"),
        ({"query_tokens": ["a"]}, ValueError, r"query_tokens holds 1 entries, but weights has 4 queries"),
        ({"tokens": "abcd"}, TypeError, r"tokens is one text; expected a list of texts, one a token"),
        ({"tokens": [1, 2, 3, 4]}, TypeError, r"tokens holds int; expected texts, such as .* numbers are token_ids"),
        (
            {"tokens": {"encoder": list("abcd")}},
            ValueError,
            r"tokens is a mapping, but weights is one group without a name; pass its entry by itself, as in "
            r"tokens=given\['encoder'\]",
        ),
        (
            {"mask": masks.causal()},
            ValueError,
            r"mask was given, but layer 0 knows its own; a mask is for dense tensors",
        ),
    ],
)
def test_what_does_not_fit_is_named(some_weights: Make, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure([some_weights(1, 1, 4, 4)], **given)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([], ValueError, r"weights is empty; expected one AttentionWeights a layer"),
        ({}, ValueError, r"weights is empty"),
        ({"encoder": []}, ValueError, r"weights\['encoder'\] is empty"),
        (7, TypeError, r"weights is of type int; expected AttentionWeights or dense tensors"),
        ({"logits": torch.zeros(1, 4)}, ValueError, r'a model\'s output without attentions; .*="eager"'),
        ({"attentions": None, "cross_attentions": ()}, ValueError, r"a model's output without attentions"),
        ("weights", TypeError, r"weights is of type str; expected"),
        ([7], TypeError, r"layer 0 is of type int; expected AttentionWeights, a tensor or an array"),
        ([[torch.ones(1, 1)]], TypeError, r"weights\[0\] is a list; expected one layer's weights. Of a generation"),
        ([None], TypeError, r'layer 0 is None, as models return it .* attn_implementation="eager"'),
    ],
)
def test_what_is_not_weights_is_named(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(weights)


def test_tokens_of_a_tab_of_the_wrong_length_are_named(some_weights: Make) -> None:
    with pytest.raises(ValueError, match=r"tokens\['b'\] holds 2 entries, but weights has 4 keys"):
        measure({"a": [some_weights(1, 1, 4, 4)], "b": [some_weights(1, 1, 4, 4)]}, tokens={"b": ["x", "y"]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": iter("abcd")}, r"tokens is of type str_\w*iterator; expected a list of texts, one a token"),
        ({"tokens": 5}, r"tokens is of type int; expected a list of texts"),
        ({"token_ids": 5}, r"token_ids is of type int; expected a list of integers, one a token"),
        ({"token_ids": ["a", "b", "c", "d"]}, r"token_ids is \['a', .*; expected a list of integers, one a token"),
    ],
)
def test_what_is_no_list_of_tokens_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        grouped(torch.full((1, 1, 4, 4), 0.25), **given)
