from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, masks
from regard.look import HeadTable, colours, encode, head_table
from regard.look.collect import SIZES, page_data
from regard.look.data import SCHEMA, TOKEN_LENGTH

Make = Callable[..., AttentionWeights]
Define = Callable[[Tensor, int, int], Tensor]


def read(weights: list[AttentionWeights], table: HeadTable | None = None, **options: Any) -> dict[str, Any]:
    table = table or head_table(weights, tokens=[f"t{at % 5}" for at in range(weights[0].shape[-1])])
    return json.loads(page_data(weights, table, **options).to_json())


def parts(data: dict[str, Any], index: int) -> dict[str, np.ndarray]:
    """A head's arrays, read from the description at the top of data.py."""
    head, rows, cols, top = data["heads"][index], data["rows"], data["cols"], data["top"]
    content = zlib.decompress(base64.b64decode(head["data"]))
    sizes = [rows * top, rows * top, rows, cols]
    assert len(content) == 2 * sum(sizes) + rows * cols
    columns, shares, entropy, received = np.split(
        np.frombuffer(content, "<u2", sum(sizes)).astype(float), np.cumsum(sizes)[:-1]
    )
    return {
        "columns": columns.reshape(rows, top).astype(int),
        "shares": shares.reshape(rows, top) / 65535,
        "entropy": entropy / 65535 * head["entropy_max"],
        "received": received / 65535 * head["received_max"],
        "codes": np.frombuffer(content, "u1", rows * cols, 2 * sum(sizes)).reshape(rows, cols),
    }


def weights_of(codes: np.ndarray, floor: float) -> np.ndarray:
    return np.where(codes <= 1, 0.0, floor ** (1 - (codes.astype(float) - 1) / 254))


def test_a_short_text_is_shown_entry_by_entry(some_weights: Make) -> None:
    mask = masks.causal() & masks.window(7)
    weights = [some_weights(1, 2, 20, 20, mask=mask, seed=seed) for seed in range(2)]
    data = read(weights)
    assert (data["schema"], data["rows"], data["cols"]) == (SCHEMA, 20, 20)
    assert [(head["layer"], head["head"]) for head in data["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for index in range(4):
        dense = weights[index // 2].to_dense()[0, index % 2].double().numpy()
        shown = parts(data, index)
        assert np.array_equal(shown["codes"] == 0, ~mask.to_dense(20, 20).numpy())
        assert np.allclose(weights_of(shown["codes"], data["floor"]), dense, rtol=0.024, atol=1.1 * data["floor"])
        assert np.allclose(shown["shares"], -np.sort(-dense)[:, :5], atol=1e-5)
        held = shown["shares"] > 1e-3
        assert np.allclose(np.take_along_axis(dense, shown["columns"], 1)[held], shown["shares"][held], atol=1e-5)
        entropy = weights[index // 2].entropy()[0, index % 2].numpy()
        assert np.allclose(shown["entropy"], entropy, atol=1e-4)
        assert np.allclose(shown["received"], dense.sum(0), atol=1e-3)


def test_a_long_text_is_pooled(some_weights: Make, by_definition: Define) -> None:
    weights = [some_weights(1, 1, 700, 700, mask=masks.causal())]
    data = read(weights)
    assert (data["query_len"], data["rows"], data["cols"]) == (700, 512, 512)
    shown = parts(data, 0)
    expected = by_definition(weights[0].to_dense()[0, 0].double(), 512, 512).numpy()
    assert np.allclose(weights_of(shown["codes"], data["floor"]), expected, rtol=0.024, atol=1.1 * data["floor"])
    entropy = weights[0].entropy()[0, 0]
    first = entropy[: 700 // 512].mean()
    assert shown["entropy"][0] == pytest.approx(float(first), abs=1e-4)
    assert shown["entropy"].mean() == pytest.approx(float(entropy.mean()), rel=0.02)


def test_thumbnails_are_the_maps_made_small(some_weights: Make, by_definition: Define) -> None:
    weights = [some_weights(1, 2, 64, 64, mask=masks.causal())]
    data = read(weights)
    assert data["thumbnail"] == [32, 32]
    codes = np.frombuffer(zlib.decompress(base64.b64decode(data["thumbnails"])), "u1").reshape(2, 32, 32)
    expected = by_definition(weights[0].to_dense()[0].double(), 32, 32).numpy()
    assert np.allclose(weights_of(codes, data["floor"]), expected, rtol=0.024, atol=1.1 * data["floor"])
    assert np.array_equal(codes[0] == 0, np.triu(np.ones((32, 32), dtype=bool), 1))


def test_the_maps_shrink_until_the_data_fit(some_weights: Make) -> None:
    weights = [some_weights(1, 4, 300, 300, mask=masks.causal(), seed=seed) for seed in range(2)]
    sides = []
    for max_bytes in (2_000_000, 400_000, 100_000, 30_000):
        data = page_data(weights, head_table(weights), max_bytes=max_bytes)
        assert len(data.to_json()) <= max_bytes
        sides.append(data.rows)
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 300
    assert sides[-1] < 100
    assert set(sides[1:]) <= set(SIZES)
    with pytest.raises(
        ValueError, match=r"max_bytes is 5,000, which the tokens and the smallest maps of 8 heads exceed"
    ):
        page_data(weights, head_table(weights), max_bytes=5_000)


def test_nothing_grows_with_the_square_of_the_length(some_weights: Make) -> None:
    sizes = []
    for length in (1200, 2400):
        weights = [some_weights(1, 1, length, length, mask=masks.causal(), width=4)]
        sizes.append(len(page_data(weights, head_table(weights)).to_json()))
    assert sizes[1] < 1.15 * sizes[0]


def test_what_is_not_known_is_null(some_weights: Make) -> None:
    weights = [some_weights(1, 1, 6, 6)]
    data = read(weights, head_table(weights))
    assert data["heads"][0]["scores"]["induction"] is None
    assert data["key_tokens"] is None
    assert "induction" not in [statistic["name"] for statistic in data["statistics"]]
    assert "entropy" in [statistic["name"] for statistic in data["statistics"]]


def test_tokens_are_text_in_ascii_without_an_opening_bracket(some_weights: Make) -> None:
    hostile = ["</script><script>alert(1)</script>", "<!--", "\u2028", "\0", "\u202e漢🙂", "\ud800", "x" * 1_000_000]
    weights = [some_weights(1, 1, 7, 7, mask=masks.causal())]
    text = page_data(weights, head_table(weights, tokens=hostile), title="<b>").to_json()
    assert text.isascii()
    assert "<" not in text
    data = json.loads(text)
    assert data["key_tokens"] == [token[:TOKEN_LENGTH] for token in hostile]
    assert data["title"] == "<b>"


def test_decoding_queries_are_named_by_the_last_keys(some_weights: Make) -> None:
    weights = [some_weights(1, 1, 2, 5, mask=masks.causal())]
    data = read(weights, head_table(weights, tokens=list("abcde")))
    assert (data["rows"], data["cols"], data["query_tokens"]) == (2, 5, ["d", "e"])


def test_the_head_shown_first_can_be_chosen(layers: list[AttentionWeights]) -> None:
    assert read(layers, selected=(1, 2))["selected"] == [1, 2]
    scores = read(layers)
    assert scores["selected"] in [[head["layer"], head["head"]] for head in scores["heads"]]


def test_the_page_has_the_ramp_of_the_figures(layers: list[AttentionWeights]) -> None:
    ramp = base64.b64decode(read(layers)["ramp"])
    assert [tuple(ramp[3 * at : 3 * at + 3]) for at in range(256)] == list(colours.ramp())


def test_layers_of_different_lengths_are_refused(some_weights: Make) -> None:
    weights = [some_weights(1, 1, 4, 4), some_weights(1, 1, 4, 6)]
    with pytest.raises(ValueError, match=r"weights has layers of \(L, S\) \[\(4, 4\), \(4, 6\)\]; expected the same"):
        page_data(weights, head_table(weights))


def test_codes_keep_weights_within_their_tolerance() -> None:
    weights = torch.logspace(-5, 0, 10_000, dtype=torch.float64)
    codes = encode.weight_codes(weights, torch.ones(10_000, dtype=torch.bool)).numpy()
    assert np.abs(weights_of(codes[200:], encode.FLOOR) / weights[200:].numpy() - 1).max() < 0.023
    assert (codes.min(), codes.max()) == (1, 255)


def test_linear_codes_survive_what_is_not_finite() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, float("nan"), float("inf"), -1.0])
    assert encode.linear_codes(values, 2.0).tolist() == [0, 32768, 65535, 0, 0, 0]
    assert encode.linear_codes(torch.zeros(2), 0.0).tolist() == [0, 0]
