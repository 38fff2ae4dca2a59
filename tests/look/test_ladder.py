"""What gives way where the data take too many bytes, and in what order."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha256
from typing import Any

import pytest
import torch
from tests.look import decoded

from regard import attention, masks
from regard.look import collect
from regard.look.ladder import LADDER, Detail, details, restored
from regard.look.measure import Measured, measure


@lru_cache(maxsize=2)
def measured(length: int) -> Measured:
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(2):
        query, key, value = torch.randn(3, 1, 2, length, 8, generator=generator)
        layers.append(attention(2 * query, key, value, masks.causal())[1])
    tokens = [sha256(bytes([at % 256, at // 256])).hexdigest() for at in range(length)]  # of 64 characters
    return measure(layers, tokens=tokens, queries=[41, 3], windows=[(100, 90)])


def read(length: int, max_bytes: int) -> dict[str, Any]:
    text = collect.page_data(measured(length), max_bytes=max_bytes).to_json()
    assert len(text) <= max_bytes
    return json.loads(text)


def test_every_step_makes_one_thing_coarser() -> None:
    now = {name: getattr(Detail(), name) for name in Detail.__dataclass_fields__}
    for name, value in LADDER:
        assert value < now[name]
        now[name] = value
    assert len(list(details())) == len(LADDER) + 1
    assert LADDER[-1][0] == "asked_windows"


@pytest.mark.parametrize("max_bytes", [1_000_000, 350_000, 150_000, 75_000, 40_000, 20_000, 17_000])
def test_the_bytes_are_a_promise(max_bytes: int) -> None:
    page = read(600, max_bytes)
    (group,) = page["groups"]
    decoded.head(group, 3)
    assert len(json.dumps(page, separators=(",", ":"))) > 0.3 * max_bytes or not page["reduced"][1:]
    assert {3, 41} <= set(decoded.queries(group).tolist())
    assert "asked for" in [window["name"] for window in group["heads"][0]["windows"]]


def test_nothing_is_given_up_where_everything_fits() -> None:
    weights = torch.rand(16, 60, 60, generator=torch.Generator().manual_seed(0)).softmax(-1)
    weights[::2, :6] = 1 / 60  # the heads that are sampled take more than the others
    shown = measure([weights])
    full = collect.page_data(shown, max_bytes=1 << 30)
    taken = len(full.to_json())
    assert taken < collect.Estimate(shown).of(Detail()) < 1.05 * taken
    for most in (taken, taken + 1, round(1.01 * taken)):
        assert collect.page_data(shown, max_bytes=most).reduced == ()
    assert collect.page_data(shown, max_bytes=taken - 1).reduced


def test_fewer_bytes_never_buy_more() -> None:
    groups = [read(600, size)["groups"][0] for size in (2_000_000, 250_000, 60_000, 20_000, 17_000)]
    rows = [group["rows"] for group in groups]
    assert rows == sorted(rows, reverse=True)
    kept = [len(decoded.queries(group)) for group in groups]
    assert kept == sorted(kept, reverse=True)
    assert groups[0]["rows"] == 512
    assert groups[-1]["rows"] <= 64


def test_what_is_given_up_is_said() -> None:
    page = read(600, 60_000)
    (group,) = page["groups"]
    queries = len(decoded.queries(group))
    assert f"{queries} of 600 queries are kept exactly." in page["reduced"]
    assert f"The maps have {group['rows']} x {group['cols']} cells instead of 512 x 512." in page["reduced"]
    assert page["reduced"] == json.loads(collect.page_data(measured(600), max_bytes=60_000).to_json())["reduced"]
    assert read(600, 5_000_000)["reduced"] == []


def test_sixteen_bits_become_eight_first() -> None:
    full = len(collect.page_data(measured(120), max_bytes=5_000_000).to_json())
    page = read(120, full - 1)
    (group,) = page["groups"]
    assert (group["depth"], group["rows"]) == (8, 120)
    assert len(decoded.queries(group)) == 120
    assert page["reduced"][0] == "The weights of a map are within 2.3 %, not 0.02 %."
    assert group["heads"][0]["windows"]  # the map holds no single pair as finely any more


def test_tokens_are_cut_when_nothing_else_is_left() -> None:
    page = read(600, 17_000)
    longest = max(map(len, decoded.texts(page, page["groups"][0]["key_tokens"])))
    assert longest in (8, 24)
    assert f"Tokens are cut at {longest} characters." in page["reduced"]


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"max_bytes is 5,000, which the tokens and the smallest maps of 4 heads exceed"
    ):
        collect.page_data(measured(600), max_bytes=5_000)


def test_what_fits_is_put_back_the_last_step_first() -> None:
    *_, last = details()
    assert restored(last, lambda detail: True) == Detail()
    assert restored(last, lambda detail: False) == last
    asked: list[Detail] = []
    restored(last, lambda detail: bool(asked.append(detail)))
    changed = [next(n for n in vars(last) if getattr(each, n) != getattr(last, n)) for each in asked]
    assert changed[:3] == ["asked_windows", "mean", "queries"]


def test_a_wrong_estimate_breaks_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = collect.Estimate.of
    for share in (0.3, 3.0):
        monkeypatch.setattr(collect.Estimate, "of", lambda self, detail, share=share: int(right(self, detail) * share))
        assert read(600, 100_000)["groups"][0]["rows"] >= 32


def test_what_is_put_back_breaks_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "restored", lambda detail, fits: Detail())
    assert read(600, 100_000)["groups"][0]["rows"] < 512
