"""look(): what it takes, what it refuses, and what its guide shows."""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.look.pages import TOKENS, means, same, shown, tabs, texts

import regard
from regard import AttentionWeights, masks

Make = Callable[..., AttentionWeights]


def test_the_package_can_be_called_and_keeps_its_names(layers: list[AttentionWeights]) -> None:
    page = regard.look(layers, TOKENS, title="a title", source="a source", notes=["a note"])
    assert isinstance(page, regard.look.Page)
    data = shown(page)
    assert (data["title"], data["source"], data["notes"]) == ("a title", "a source", ["a note"])
    assert texts(data) == [TOKENS]
    for name in regard.look.__all__:
        assert getattr(regard.look, name).__doc__
    assert sys.modules["regard.look"] is regard.look
    with pytest.raises(AttributeError, match=r"module 'regard\.look' has no attribute 'nothing'"):
        regard.look.nothing  # noqa: B018


def test_one_layer_is_enough(some_weights: Make) -> None:
    weights = some_weights(1, 2, 6, 6)
    assert shown(regard.look(weights)) == shown(regard.look([weights]))
    assert regard.look(some_weights(6, 6)).data.groups[0].query_len == 6


@pytest.mark.parametrize("kind", ["tuple of (1, H, L, S)", "head x query x key", "array", "one (L, S)"])
def test_dense_weights_in_anybodys_convention(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(3, 2, 7, 7, generator=generator, dtype=torch.float64).softmax(-1)
    given: Any = {
        "tuple of (1, H, L, S)": tuple(dense[:, None].float()),
        "head x query x key": dense[0],
        "array": dense[0].numpy(),
        "one (L, S)": dense[0, 0],
    }[kind]
    page = regard.look(given, tokens=TOKENS[:7])
    assert len(tabs(page)[""][0]) == (3 if "tuple" in kind else 1)
    same(means(page), dense[0, 0])
    assert shown(page)["groups"][0]["masked"] is False
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"mask forbids pairs that hold weight \(query 0, key 1: 0\.136\)"):
        regard.look(given, mask=allowed)
    causal = torch.full((2, 7, 7), -torch.inf).triu(1).softmax(-1)
    hatched = regard.look(causal, mask=allowed)
    assert shown(hatched)["groups"][0]["masked"] is True


def test_tabs_by_name_and_what_a_model_returns(some_weights: Make) -> None:
    encoder, decoder, cross = some_weights(1, 2, 9, 9), some_weights(1, 2, 5, 5), some_weights(1, 2, 5, 9)
    page = regard.look({"before": [encoder], "after": [encoder, encoder]}, TOKENS[:9])
    assert tabs(page) == {"before": (["layer 0"], 9, 9), "after": (["layer 0", "layer 1"], 9, 9)}
    outputs = {
        "logits": torch.zeros(1),
        "encoder_attentions": (encoder.to_dense(),),
        "decoder_attentions": (decoder.to_dense(),),
        "cross_attentions": (cross.to_dense(),),
        "attentions": None,
    }
    page = regard.look(outputs, {"encoder": TOKENS[:9], "decoder": TOKENS[7:]})
    groups = shown(page)["groups"]
    assert [group["name"] for group in groups] == ["encoder", "decoder", "cross"]
    assert [group["shift"] for group in groups] == [0, 0, None]
    both = texts(shown(page))
    assert [both[groups[2][side]] for side in ("query_tokens", "key_tokens")] == [TOKENS[7:], TOKENS[:9]]
    same(means(page, 2, 1), cross[0, 1])


def test_the_sequence_of_a_batch_that_is_shown_is_said(some_weights: Make) -> None:
    weights = some_weights(4, 2, 6, 6)
    page = regard.look(weights, batch=2, notes=["cut short"])
    assert shown(page)["notes"] == ["cut short", "sequence 2 of 4, counted from 0"]
    same(means(page, 0, 1), weights[2, 1])
    for number in (np.int64(3), torch.tensor(3)):
        assert shown(regard.look(weights, batch=number))["notes"] == ["sequence 3 of 4, counted from 0"]
    assert shown(regard.look(some_weights(1, 2, 6, 6)))["notes"] == []


def test_what_was_asked_for_is_kept(some_weights: Make) -> None:
    weights = some_weights(1, 1, 700, 700, mask=masks.causal())
    page = regard.look(weights, queries=[411], windows=[(300, 200)], max_bytes=150_000)
    (group,) = shown(page)["groups"]
    kept = np.frombuffer(zlib.decompress(base64.b64decode(group["queries"])), "<u4")
    assert 411 in kept
    assert "asked for" in [window["name"] for window in group["heads"][0]["windows"]]
    assert len(json.dumps(shown(page), separators=(",", ":"))) <= 150_000


def test_what_was_asked_for_may_be_read_once_and_be_any_integer(some_weights: Make) -> None:
    weights = {name: some_weights(1, 1, 700, 700, mask=masks.causal()) for name in "ab"}
    page = regard.look(
        weights,
        queries=(number for number in (np.int32(411), torch.tensor(7))),
        windows=iter([(np.int64(300), torch.tensor(200))]),
        max_bytes=np.int64(150_000),
    )
    for group in shown(page)["groups"]:
        assert {411, 7} <= set(np.frombuffer(zlib.decompress(base64.b64decode(group["queries"])), "<u4").tolist())
        asked = [window for window in group["heads"][0]["windows"] if window["name"] == "asked for"]
        assert [(each["query"] <= 300 < each["query"] + each["rows"]) for each in asked] == [True]


def test_bytes_that_nobody_gave_are_called_the_default(
    layers: list[AttentionWeights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.look.opened.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="max_bytes is the default of 1,000, which the tokens and the smallest maps"):
        regard.look(layers)


def test_progress_counts_layers(layers: list[AttentionWeights]) -> None:
    steps: list[tuple[int, int]] = []
    regard.look(layers, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        ([], {}, ValueError, "weights is empty; expected one AttentionWeights a layer"),
        ({}, {}, ValueError, "weights is empty"),
        ("good", {"tokens": ["a"]}, ValueError, "tokens holds 1 entries, but weights has 12 keys; expected one a key"),
        ("good", {"tokens": "abc"}, TypeError, "tokens is one text; expected a list of texts, one a token"),
        ("good", {"query_tokens": ["a"]}, ValueError, "query_tokens holds 1 entries, but weights has 12 queries"),
        ("good", {"batch": 1}, ValueError, r"batch is 1, but weights holds 1 sequence\(s\): expected 0 to 0"),
        ("good", {"queries": [12]}, ValueError, "queries holds 12, but there are 12 queries; expected 0 to 11"),
        ("good", {"windows": [(12, 0)]}, ValueError, r"windows holds \(12, 0\), but there are 12 queries; expected"),
        (
            "good",
            {"max_bytes": 1000},
            ValueError,
            "max_bytes is 1,000, which the tokens and the smallest maps of 6 heads",
        ),
        ("good", {"mask": torch.ones(12, 12).bool()}, ValueError, "mask was given, but layer 0 knows its own"),
        ("a path", {}, TypeError, "weights is of type str; expected AttentionWeights or dense tensors"),
        (
            "good",
            {"max_bytes": "5"},
            TypeError,
            "max_bytes is '5'; expected a number of bytes, such as 2_000_000, or None",
        ),
        (
            "good",
            {"max_bytes": 0},
            ValueError,
            "max_bytes is 0; expected a number of bytes, such as 2_000_000, or None",
        ),
        ("good", {"batch": "0"}, TypeError, "batch is '0'; expected the number of one sequence, from 0"),
        ("good", {"batch": True}, TypeError, "batch is True; expected the number of one sequence, from 0"),
        ("good", {"batch": -1}, ValueError, "batch is -1; expected the number of one sequence, from 0"),
        ("good", {"queries": [-1]}, ValueError, "queries holds -1, but there are 12 queries; expected 0 to 11"),
        (
            "good",
            {"queries": [1.0]},
            TypeError,
            r"queries holds 1\.0; expected integers, the numbers of queries from 0",
        ),
        ("good", {"queries": 3}, TypeError, "queries is 3; expected a list of numbers of queries, from 0"),
        ("good", {"windows": 3}, TypeError, r"windows is 3; expected a list of \(query, key\) pairs"),
        (
            "good",
            {"windows": [(0, -1)]},
            ValueError,
            r"windows holds \(0, -1\), but there are 12 keys; expected 0 to 11",
        ),
        (
            "good",
            {"windows": [(slice(-4, None), 0)]},
            ValueError,
            r"windows holds .*; expected slices of step 1 that hold 1 to 64 of 12 queries, counted from 0",
        ),
        ("good", {"windows": [(slice("a"), 0)]}, TypeError, "windows holds .*; expected slices of step 1 that hold"),
        ("good", {"title": None}, TypeError, "title is None; expected a text"),
        ("good", {"source": b""}, TypeError, "source is b''; expected a text"),
        ("good", {"notes": "a note"}, TypeError, "notes is 'a note'; expected a list of sentences"),
        ("good", {"notes": [1]}, TypeError, r"notes is \[1\]; expected a list of sentences"),
        (
            {"last_hidden_state": torch.zeros(1)},
            {},
            ValueError,
            r"weights is a model.s output without attentions; pass output_attentions=True",
        ),
        (3, {}, TypeError, "weights is of type int; expected AttentionWeights or dense tensors"),
        ([torch.ones(2, 2) / 2, "x"], {}, TypeError, "layer 1 is of type str; expected AttentionWeights, a tensor"),
        ((None, None), {}, TypeError, r'layer 0 is None, .* attn_implementation="eager" .* or run it inside'),
        (torch.randn(4, 4), {}, ValueError, "apply softmax over the last axis"),
        (
            torch.ones(4, 4, device="meta"),
            {},
            ValueError,
            "is on the device meta, which holds no numbers; run the model",
        ),
    ],
)
def test_bad_input_is_named(
    layers: list[AttentionWeights], weights: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    if isinstance(weights, str) and weights == "good":
        weights = layers
    with pytest.raises(error, match=message):
        regard.look(weights, **options)


DOCS = Path(__file__).parents[2] / "docs" / "look.md"


def test_what_the_guide_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 6
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert "http://127.0.0.1:" in capsys.readouterr().out
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["dense.html", "encoding.html", "mask.html", "report.html"]
    assert names["page"].data.reduced  # type: ignore[attr-defined]
