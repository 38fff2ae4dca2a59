"""Reads the page's data as the description at the top of look/data.py says, and nothing of look's own."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

FLOOR, FINE_FLOOR = 1e-5, 1e-9
NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Head:
    """What one head's bytes say; weights are NaN where a code says forbidden."""

    keys: np.ndarray
    most_read: np.ndarray
    receives: np.ndarray
    entropy_of: np.ndarray
    total_of: np.ndarray
    first_of: np.ndarray
    weights: np.ndarray
    rest: np.ndarray
    entropy_left_of: np.ndarray
    first: np.ndarray
    entropy: np.ndarray
    entropy_left: np.ndarray
    received: np.ndarray
    peak: np.ndarray
    windows: list[np.ndarray]
    mean: np.ndarray
    max: np.ndarray


def unpacked(text: str, kind: str = "u1") -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def texts(page: dict[str, Any], index: int) -> list[str]:
    return json.loads(unpacked(page["texts"][index]).tobytes())


def coarse(codes: np.ndarray) -> np.ndarray:
    """8-bit codes as weights."""
    found = FLOOR ** (1 - (codes.astype(float) - 1) / 254)
    return np.where(codes == 0, np.nan, found)


def fine(codes: np.ndarray) -> np.ndarray:
    """16-bit codes as weights."""
    found = FINE_FLOOR ** (1 - (codes.astype(float) - 1) / 65534)
    return np.where(codes == 0, np.nan, found)


def head(group: dict[str, Any], index: int) -> Head:
    """The arrays of one head of a group."""
    told = group["heads"][index]
    n, k, p, rows, cols = len(queries(group)), group["top"], group["most_read"], group["rows"], group["cols"]
    mq, mk = group["margins"]
    content, at = unpacked(told["data"]).tobytes(), 0

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal at
        found = np.frombuffer(content, kind, count, at)
        at += found.nbytes
        return found

    long = [take(n * k, "<u4").reshape(n, k), take(p, "<u4"), take(p, "<f4"), *(take(n, "<f4") for _ in range(3))]
    weights, rest = fine(take(n * k, "<u2")).reshape(n, k), fine(take(n, "<u2"))
    left = (told["without_first"] or {"entropy_max": 0})["entropy_max"]

    def linear(count: int, highest: float) -> np.ndarray:
        return take(count, "<u2").astype(float) / 65535 * highest

    entropy_left_of, first = linear(n, left), fine(take(rows, "<u2"))
    margins = [linear(mq, told["entropy_max"]), linear(mq, left)]
    margins += [np.nan_to_num(fine(take(mk, "<u2"))) * told[name] for name in ("received_max", "peak_max")]
    windows = [fine(take(w["rows"] * w["cols"], "<u2")).reshape(w["rows"], w["cols"]) for w in told["windows"]]
    mean = fine(take(rows * cols, "<u2")) if group["depth"] == 16 else coarse(take(rows * cols, "u1"))
    most = coarse(take(group["max"][0] * group["max"][1], "u1")).reshape(group["max"])
    assert at == len(content)
    return Head(*long, weights, rest, entropy_left_of, first, *margins, windows, mean.reshape(rows, cols), most)


def queries(group: dict[str, Any]) -> np.ndarray:
    return unpacked(group["queries"], "<u4").astype(int)


def edges(length: int, cells: int) -> list[int]:
    return [cell * length // cells for cell in range(cells + 1)]


def in_cells(values: np.ndarray, rows: int, cols: int, reduce: str) -> np.ndarray:
    """A dense (L, S) array in cells, cell by cell: "mean", "max", or "any" of booleans."""
    row, col = edges(values.shape[0], rows), edges(values.shape[1], cols)
    blocks = [[values[row[r] : row[r + 1], col[c] : col[c + 1]] for c in range(cols)] for r in range(rows)]
    does = {"mean": lambda block: block.sum(1).mean(), "max": np.max, "any": np.any}[reduce]
    return np.array([[does(block) for block in line] for line in blocks])
