from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.look import decoded

from regard import masks
from regard.look.plain import encoding_data, mask_data


def read(data: Any) -> dict[str, Any]:
    return json.loads(data.to_json())


def test_an_encoding_is_kept_value_by_value() -> None:
    encoding = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    page = read(encoding_data(encoding[None], title="t", notes=["n"]))
    assert (page["kind"], page["title"], page["notes"], page["groups"]) == ("encoding", "t", ["n"], [])
    it = page["encoding"]
    assert (it["length"], it["dims"], it["rows"], it["cols"]) == (20, 6, 20, 6)
    codes = decoded.unpacked(it["codes"], "<u2").reshape(20, 6)
    shown = it["lowest"] + codes / 65535 * (it["highest"] - it["lowest"])
    assert np.allclose(shown, encoding.numpy(), atol=1e-4)


def test_a_long_encoding_is_sampled_and_never_averaged() -> None:
    encoding = torch.randn(1300, 770, generator=torch.Generator().manual_seed(0)).double()
    page = read(encoding_data(encoding))
    it = page["encoding"]
    positions, dimensions = (decoded.unpacked(it[name], "<u4").astype(int) for name in ("positions", "dimensions"))
    codes = decoded.unpacked(it["codes"], "<u2").reshape(512, 512)
    shown = it["lowest"] + codes / 65535 * (it["highest"] - it["lowest"])
    assert np.allclose(shown, encoding.numpy()[positions][:, dimensions], atol=2e-4)
    assert positions[[0, 1, -1]].tolist() == [0, 2, 1297]
    assert (np.diff(dimensions) > 0).all()
    assert (dimensions.reshape(-1, 2) % 2 == [0, 1]).all()
    assert page["reduced"][0] == "512 of 1,300 positions are kept, evenly spread; none is averaged."


def test_a_page_without_weights_fits_its_bytes() -> None:
    encoding = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    for max_bytes in (400_000, 60_000):
        assert len(encoding_data(encoding, max_bytes=max_bytes).to_json()) <= max_bytes
    with pytest.raises(ValueError, match=r"max_bytes is 2,000, which the smallest map of the encoding exceeds"):
        encoding_data(encoding, max_bytes=2_000)


def test_what_is_no_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoding has shape \(4,\); expected \(L, D\)"):
        encoding_data(torch.zeros(4))
    with pytest.raises(ValueError, match=r"encoding holds NaN or infinities"):
        encoding_data(torch.full((2, 2), float("nan")))
    with pytest.raises(TypeError, match=r"encoding is of type str"):
        encoding_data("sinusoidal")
    with pytest.raises(ValueError, match=r"on the device meta"):
        encoding_data(torch.zeros(2, 2, device="meta"))


@pytest.mark.parametrize("lengths", [(30, 30), (600, 700)], ids=str)
def test_a_mask_says_how_many_pairs_it_allows(lengths: tuple[int, int]) -> None:
    mask = masks.causal() & masks.where(lambda b, h, q, kv: (q + kv) % (2 + h) == 0)
    page = read(mask_data(mask, *lengths, num_heads=2))
    it = page["mask"]
    rows, cols = min(512, lengths[0]), min(512, lengths[1])
    assert (it["query_len"], it["key_len"], it["rows"], it["cols"]) == (*lengths, rows, cols)
    assert [one["name"] for one in it["maps"]] == ["head 0", "head 1"]
    dense = mask.to_dense(*lengths, num_heads=2)[0].double().numpy()
    row, col = np.array(decoded.edges(lengths[0], rows)), np.array(decoded.edges(lengths[1], cols))
    for one, whole in zip(it["maps"], dense, strict=True):
        pairs = np.add.reduceat(np.add.reduceat(whole, row[:-1], 0), col[:-1], 1)
        share = pairs / (np.diff(row)[:, None] * np.diff(col))
        codes = decoded.unpacked(one["codes"]).reshape(rows, cols)
        assert np.array_equal(codes == 0, share == 0)
        assert np.array_equal(codes == 255, share == 1)
        assert np.abs(codes / 255 - share).max() <= 0.003
        assert one["share"] == pytest.approx(whole.mean(), abs=1e-12)
        assert np.allclose(decoded.unpacked(one["per_query"], "<f4"), pairs.sum(1) / np.diff(row), atol=1e-3)
        assert np.allclose(decoded.unpacked(one["per_key"], "<f4"), pairs.sum(0) / np.diff(col), atol=1e-3)


def test_a_cell_that_is_nearly_all_or_nearly_nothing_says_so() -> None:
    page = read(mask_data(~masks.window(1), 10_000))
    codes = decoded.unpacked(page["mask"]["maps"][0]["codes"]).reshape(512, 512)
    assert codes.diagonal().max() == 254 - 12 or codes.diagonal().max() < 255
    page = read(mask_data(masks.prefix(1), 1_000_000))
    codes = decoded.unpacked(page["mask"]["maps"][0]["codes"]).reshape(512, 512)
    assert set(codes[:, 0].tolist()) == {1}
    assert codes[:, 1:].max() == 0


def test_a_mask_may_be_booleans() -> None:
    booleans = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    it = read(mask_data(booleans))["mask"]
    assert (it["query_len"], it["key_len"]) == (5, 7)
    assert [one["name"] for one in it["maps"]] == ["sequence 0", "sequence 1"]
    codes = decoded.unpacked(it["maps"][1]["codes"]).reshape(5, 7)
    assert np.array_equal(codes, 255 * booleans[1, 0].numpy())


def test_a_mask_may_be_an_array() -> None:
    booleans = np.random.default_rng(0).random((5, 7)) > 0.5
    it = read(mask_data(booleans))["mask"]
    assert np.array_equal(decoded.unpacked(it["maps"][0]["codes"]).reshape(5, 7), 255 * booleans)


@pytest.mark.parametrize(("length", "error"), [(0, ValueError), (-3, ValueError), (3.5, TypeError), (True, TypeError)])
def test_a_length_is_named(length: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"query_len is {length}; expected the number of query positions, at least 1"):
        mask_data(masks.causal(), length)  # type: ignore[arg-type]
    with pytest.raises(error, match=rf"key_len is {length}; expected the number of key positions, at least 1"):
        mask_data(torch.ones(4, 4, dtype=torch.bool), 4, length)  # type: ignore[arg-type]


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query_len is None; a mask has no length of its own"):
        mask_data(masks.causal())
    with pytest.raises(TypeError, match=r"mask is of type list; expected a mask of regard.masks or booleans"):
        mask_data([[True]], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mask has shape \(2, 2\); expected \(..., 4, 4\)"):
        mask_data(torch.ones(2, 2, dtype=torch.bool), 4)


def test_many_maps_are_the_first_ones() -> None:
    booleans = torch.ones(9, 8, 2, 2, dtype=torch.bool)
    page = read(mask_data(booleans))
    assert len(page["mask"]["maps"]) == 64
    assert page["reduced"] == ["64 of 72 maps are shown, those of the first sequences."]
