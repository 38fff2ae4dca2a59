"""Every number of the page's data against dense float64 attention by its definition."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.look import decoded

from regard import AttentionWeights, attention, masks, reference
from regard.look import collect, head_table
from regard.look.data import SCHEMA, PageData
from regard.look.measure import measure

MEASURE = import_module("regard.look.measure")  # the package has a function of that name
BATCH, HEADS, WIDTH = 2, 4, 8


@dataclass(frozen=True)
class Case:
    """Weights, and what they are by definition for the second sequence."""

    weights: AttentionWeights
    dense: np.ndarray
    allowed: np.ndarray


def case(name: str, query_len: int, key_len: int) -> Case:
    valid = torch.ones(BATCH, key_len, dtype=torch.bool)
    valid[1, : min(3, key_len - 1)] = False
    mask, options = {
        "no mask": (None, {}),
        "causal": (masks.causal(), {}),
        "window and padding": (masks.causal() & masks.window(7) & masks.padding(valid), {}),
        "softcap and sinks": (masks.causal(), {"softcap": 4.0, "sinks": torch.tensor([0.0, 2.0, -1.0, 5.0])}),
        "a mask a head": (masks.dense(torch.rand(BATCH, HEADS, query_len, key_len, generator=seeded(9)) > 0.4), {}),
    }[name]
    generator = seeded(1)
    query = 3 * torch.randn(BATCH, HEADS, query_len, WIDTH, generator=generator)
    key, value = torch.randn(2, BATCH, 2, key_len, WIDTH, generator=generator)  # Hkv 2
    weights = attention(query, key, value, mask, **options)[1]
    whole = None if mask is None else mask.to_dense(query_len, key_len, batch=BATCH, num_heads=HEADS)
    wide = {name: each.double() if isinstance(each, torch.Tensor) else each for name, each in options.items()}
    defined = reference.attention(query.double(), key.double(), value.double(), whole, **wide).weights[1]
    allowed = (
        torch.ones(query_len, key_len, dtype=torch.bool) if whole is None else whole.expand(BATCH, HEADS, -1, -1)[1]
    )
    return Case(weights, defined.numpy(), allowed.expand(HEADS, query_len, key_len).numpy())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read(*args: Any, **options: Any) -> dict[str, Any]:
    taken = {name: options.pop(name) for name in ("title", "max_bytes", "selected") if name in options}
    return json.loads(collect.page_data(measure(*args, **options), **taken).to_json())


def close(shown: np.ndarray, true: np.ndarray, allowed: np.ndarray, *, rtol: float, floor: float) -> None:
    """Weights as shown: forbidden where they are, and elsewhere near, or both at the floor."""
    assert np.array_equal(np.isnan(shown), ~allowed)
    assert np.allclose(np.nan_to_num(shown), true, rtol=rtol, atol=1.05 * floor)


CASES = ["no mask", "causal", "window and padding", "softcap and sinks", "a mask a head"]


@pytest.mark.parametrize("lengths", [(20, 20), (6, 17)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_short_text_is_shown_pair_by_pair(name: str, lengths: tuple[int, int]) -> None:
    it = case(name, *lengths)
    page = read([it.weights], batch=1)
    (group,) = page["groups"]
    assert (page["schema"], page["kind"], group["masked"]) == (SCHEMA, "attention", name != "no mask")
    assert (group["rows"], group["cols"], group["depth"], group["max"]) == (*lengths, 16, [0, 0])
    assert decoded.queries(group).tolist() == list(range(lengths[0]))
    for number, (dense, allowed) in enumerate(zip(it.dense, it.allowed, strict=True)):
        shown, told = decoded.head(group, number), group["heads"][number]
        close(shown.mean, dense, allowed, rtol=3e-4, floor=1e-9)
        logs = np.log(dense, where=dense > 0, out=np.zeros_like(dense))
        assert np.allclose(shown.entropy_of, -(dense * logs).sum(1), atol=2e-5)
        assert np.allclose(shown.total_of, dense.sum(1), atol=1e-5)
        assert np.allclose(shown.first_of, dense[:, 0], atol=1e-5)
        close(shown.first, dense[:, 0], allowed[:, 0], rtol=3e-4, floor=1e-9)
        assert np.allclose(shown.entropy, shown.entropy_of, atol=1e-4)
        assert np.allclose(shown.received, dense.sum(0), rtol=3e-4, atol=1e-6)
        assert np.allclose(shown.peak, dense.sum(0), rtol=3e-4, atol=1e-6)
        assert np.allclose(shown.entropy_left, shown.entropy_left_of)
        assert np.allclose(shown.receives, np.sort(dense.sum(0))[::-1][:8], atol=1e-4)
        assert np.allclose(dense.sum(0)[shown.most_read], shown.receives, atol=1e-4)
        assert told["highest"] == pytest.approx(dense.max(), abs=1e-5)
        assert (told["windows"], told["top_key"]) == ([], int(dense.sum(0).argmax()))


@pytest.mark.parametrize("name", CASES)
def test_the_keys_of_a_query_are_its_largest_weights(name: str) -> None:
    it = case(name, 20, 20)
    (group,) = read([it.weights], batch=1)["groups"]
    for number, dense in enumerate(it.dense):
        shown = decoded.head(group, number)
        assert shown.keys.shape == (20, 8)
        for query in range(20):
            some = shown.keys[query] != decoded.NONE
            keys, order = shown.keys[query][some], np.sort(dense[query])[::-1]
            assert len(set(keys)) == len(keys) == min(8, int((dense[query] > 0).sum()))
            assert np.allclose(shown.weights[query][some], dense[query][keys], rtol=3e-4, atol=1e-8)
            assert np.allclose(shown.weights[query][some], order[: len(keys)], rtol=3e-4, atol=1e-8)
            assert np.isnan(shown.weights[query][~some]).all()


@pytest.mark.parametrize("lengths", [(40, 40), (23, 50), (50, 23)], ids=str)
@pytest.mark.parametrize("name", ["window and padding", "softcap and sinks", "a mask a head"])
def test_a_long_text_is_pooled(name: str, lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "details", lambda: iter([collect.Detail(margins=9, thumbnails=4)]))
    it = case(name, *lengths)
    (group,) = read([it.weights], batch=1, side=16)["groups"]
    assert (group["rows"], group["cols"], group["depth"], group["max"]) == (16, 16, 8, [16, 16])
    assert group["margins"] == [9, 9]
    small = decoded.coarse(decoded.unpacked(group["thumbnails"])).reshape(HEADS, 4, 4)
    for number, (dense, allowed) in enumerate(zip(it.dense, it.allowed, strict=True)):
        shown, told = decoded.head(group, number), group["heads"][number]
        some = decoded.in_cells(allowed, 16, 16, "any")
        close(shown.mean, decoded.in_cells(dense, 16, 16, "mean"), some, rtol=0.024, floor=1e-5)
        close(shown.max, decoded.in_cells(dense, 16, 16, "max"), some, rtol=0.024, floor=1e-5)
        tiny = decoded.in_cells(allowed, 4, 4, "any")
        close(small[number], decoded.in_cells(dense, 4, 4, "mean"), tiny, rtol=0.024, floor=1e-5)
        rows, cols = decoded.edges(lengths[0], 16), decoded.edges(lengths[1], 9)
        first = np.array([dense[a:b, 0].mean() for a, b in pairwise(rows)])
        readable = np.array([allowed[a:b, 0].any() for a, b in pairwise(rows)])
        close(shown.first, first, readable, rtol=3e-4, floor=1e-8)
        received = dense.sum(0)
        most = [received[a:b].max() for a, b in pairwise(cols)]
        mean = [received[a:b].mean() for a, b in pairwise(cols)]
        assert np.allclose(shown.peak, most, rtol=3e-4, atol=1e-6)
        assert np.allclose(shown.received, mean, rtol=3e-4, atol=1e-6)
        assert (shown.received * np.diff(cols)).sum() == pytest.approx(dense.sum(), rel=2e-4)
        left = entropies(without_first(dense))
        assert np.allclose(shown.entropy_left_of, left[decoded.queries(group)], atol=5e-4)
        means = [left[a:b].mean() for a, b in pairwise(decoded.edges(lengths[0], 9))]
        assert np.allclose(shown.entropy_left, means, atol=5e-4)
        assert told["highest"] == pytest.approx(dense.max(), abs=1e-5)


def entropies(rows: np.ndarray) -> np.ndarray:
    return -(rows * np.log(rows, where=rows > 0, out=np.zeros_like(rows))).sum(-1)


def without_first(dense: np.ndarray) -> np.ndarray:
    """w / (1 - w_0) of the other keys; zeros where nothing is left."""
    left = 1 - dense[:, :1]
    return np.where(left >= 1e-6, dense / np.maximum(left, 1e-6), 0) * (np.arange(dense.shape[1]) > 0)


@pytest.mark.parametrize("top", [8, 5])
@pytest.mark.parametrize("name", CASES)
def test_what_a_query_gives_to_all_other_keys_is_kept(name: str, top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "details", lambda: iter([collect.Detail(top=top)]))
    monkeypatch.setattr(collect, "restored", lambda detail, fits: detail)
    it = case(name, 40, 40)
    if name == "softcap and sinks":
        monkeypatch.setattr(MEASURE, "ROWS_OF_ALL", 0)  # some queries, whose rows are looked at themselves
        monkeypatch.setattr(MEASURE, "QUERIES", 16)
    (group,) = read([it.weights], batch=1, side=16)["groups"]
    assert group["top"] == top
    for number, dense in enumerate(it.dense):
        shown = decoded.head(group, number)
        for at, query in enumerate(decoded.queries(group)):
            keys = [key for key in shown.keys[at] if key != decoded.NONE]
            others = [key for key in range(1, 40) if key not in keys]
            assert np.isnan(shown.rest[at]) == (dense[query].sum() == 0)
            # Of 16 bits 0.02 %; a single weight of float32 scores up to 20 is known to 1e-5 of it.
            assert np.nan_to_num(shown.rest[at]) == pytest.approx(dense[query, others].sum(), rel=2.5e-4, abs=2e-9)


def test_scores_without_the_first_key_are_those_of_the_table() -> None:
    it, ids = case("causal", 20, 20), torch.arange(20) % 7
    (group,) = read([it.weights], batch=1, token_ids=ids)["groups"]
    wanted = head_table([it.weights], token_ids=ids, batch=1, hide_first=True).heads
    for told, want, dense in zip(group["heads"], wanted, it.dense, strict=True):
        left = told["without_first"]
        assert list(left) == ["scores", "top_key", "entropy_max"]
        assert list(left["scores"]) == list(told["scores"])
        assert left["scores"]["first_token"] is None
        assert left["scores"] == {
            name: None if name == "first_token" else getattr(want, name) for name in told["scores"]
        }
        assert left["top_key"] == want.top_key == 1 + int(dense[:, 1:].sum(0).argmax())
        assert left["entropy_max"] == pytest.approx(entropies(without_first(dense)).max(), abs=1e-4)
    (alone,) = read([case("causal", 1, 1).weights])["groups"]
    assert [told["without_first"] for told in alone["heads"]] == [None] * HEADS
    assert decoded.head(alone, 0).entropy_left.tolist() == [0]


def test_windows_hold_single_pairs() -> None:
    it = case("window and padding", 150, 150)
    places = [(70, 66), (slice(5, 9), slice(2, 12))]
    (group,) = read([it.weights], batch=1, side=16, windows=places, queries=[41])["groups"]
    assert 41 in decoded.queries(group)
    for number, (dense, allowed) in enumerate(zip(it.dense, it.allowed, strict=True)):
        told, shown = group["heads"][number]["windows"], decoded.head(group, number)
        names = [window["name"] for window in told]
        assert names[:3] == ["diagonal", "asked for", "asked for"]
        most_read = int(shown.most_read[0])
        assert ("most read" in names) == (most_read < 150 - 64)
        for window, values in zip(told, shown.windows, strict=True):
            part = (
                slice(window["query"], window["query"] + window["rows"]),
                slice(window["key"], window["key"] + window["cols"]),
            )
            close(values, dense[part], allowed[part], rtol=3e-4, floor=1e-9)
        assert [(w["query"], w["key"], w["rows"], w["cols"]) for w in told[:3]] == [
            (86, 86, 64, 64),
            (38, 34, 64, 64),
            (5, 2, 4, 10),
        ]


def test_tokens_are_text_in_ascii_without_an_opening_bracket() -> None:
    it = case("causal", 7, 7)
    hostile = ["</script><script>alert(1)</script>", "<!--", "\u2028", "\0", "\u202e漢🙂", "\ud800", "x" * 1_000_000]
    measured = measure([it.weights], tokens=hostile)
    text = collect.page_data(measured, title="<b>", source="</p>", notes=["<i>"]).to_json()
    assert text.isascii()
    assert "<" not in text
    assert len(text) < 30_000
    page = json.loads(text)
    assert decoded.texts(page, page["groups"][0]["key_tokens"]) == [*hostile[:5], "\ufffd", "x" * 100]
    assert (page["title"], page["source"], page["notes"]) == ("<b>", "</p>", ["<i>"])


def test_what_is_not_known_is_null() -> None:
    page = read([case("no mask", 6, 6).weights])
    (group,) = page["groups"]
    assert group["heads"][0]["scores"]["induction"] is None
    assert (group["key_tokens"], group["query_tokens"], page["texts"], page["live"]) == (None, None, [], None)
    assert group["statistics"][0]["name"] == "previous_token"
    assert [s["name"] for s in group["statistics"] if s["low_first"]] == ["entropy"]


def test_the_head_shown_first_can_be_chosen() -> None:
    weights = [case("causal", 9, 9).weights] * 2
    assert read(weights, selected=(1, 2))["groups"][0]["selected"] == [1, 2]
    assert read(weights)["groups"][0]["selected"][0] in (0, 1)
    with pytest.raises(
        ValueError, match=r"selected is \(2, 0\), a head that weights has not; expected \(layer, head\)"
    ):
        read(weights, selected=(2, 0))


def test_the_ramps_are_those_of_the_figures() -> None:
    from regard.look import colours

    page = read([case("causal", 4, 4).weights])
    for name, ramp in (("ramp", colours.ramp()), ("signed", colours.signed_ramp())):
        assert bytes(np.array(ramp, dtype="u1")) == base64.b64decode(page[name])


def test_nothing_grows_with_the_square_of_the_length() -> None:
    sizes = []
    for length in (1200, 2400):
        query, key, value = torch.randn(3, 1, 1, length, 4, generator=seeded(0))
        measured = measure([attention(query, key, value, masks.causal())[1]], queries=[3])
        sizes.append(len(collect.page_data(measured).to_json()))
    assert sizes[1] - sizes[0] < 1200 * 8 * 8  # the exact queries alone


def test_data_can_be_made_live() -> None:
    data = collect.page_data(measure([case("causal", 4, 4).weights]))
    assert isinstance(data, PageData)
    assert json.loads(replace(data, live="/abc/").to_json())["live"] == "/abc/"
