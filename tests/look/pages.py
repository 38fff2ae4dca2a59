"""A page as a browser would find it, read back."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np

import regard

TOKENS = list("abcdefghijkl")


def data_in(text: str) -> dict[str, Any]:
    """The data that a browser would find in a page."""
    found = re.search(r'<script id="?data"? type="?application/json"?>(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def shown(page: regard.look.Page) -> dict[str, Any]:
    """The data of a page."""
    return data_in(page.html)


def texts(data: dict[str, Any]) -> list[list[str]]:
    return [json.loads(zlib.decompress(base64.b64decode(each))) for each in data["texts"]]


def tabs(page: regard.look.Page) -> dict[str, tuple[list[str], int, int]]:
    """The layers' names, L and S of each tab."""
    return {each["name"]: (each["layers"], each["query_len"], each["key_len"]) for each in shown(page)["groups"]}


def means(page: regard.look.Page, group: int = 0, head: int = 0) -> np.ndarray:
    """The mean map of a head, decoded; 16 bits, one cell a pair."""
    data = shown(page)["groups"][group]
    assert (data["rows"], data["cols"], data["depth"]) == (data["query_len"], data["key_len"], 16)
    content = zlib.decompress(base64.b64decode(data["heads"][head]["data"]))
    codes = np.frombuffer(content[len(content) - 2 * data["rows"] * data["cols"] :], "<u2").astype(float)
    weights = np.where(codes <= 1, 0.0, 1e-9 * np.exp((codes - 1) / 65534 * np.log(1e9)))
    return weights.reshape(data["rows"], data["cols"])


def same(found: np.ndarray, expected: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(expected, dtype=float), rtol=3e-4, atol=2e-9)
