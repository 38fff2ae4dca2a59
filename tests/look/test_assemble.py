from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regard import AttentionWeights
from regard.look import page
from regard.look.assemble import SCRIPTS

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "%%script%%",
    "\0",
    "\u202e\u2066",
    "\u2028",
    "\"'&lt;`",
    "漢🙂",
    "]]>",
    "\\u003c",
    "x" * 100_000,
]


class Elements(HTMLParser):
    """What a parser makes of the page: the elements, and the content of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.policy = ""
        self.inside = False
        self.contents: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if tag in ("script", "style"):
            self.contents.append((tag, given, ""))
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, given, content = self.contents[-1]
            self.contents[-1] = tag, given, content + data


@pytest.fixture
def text(layers: list[AttentionWeights], tmp_path: Path) -> str:
    path = page(
        layers, HOSTILE, tmp_path / "page.html", title="</title><script>alert(2)</script>", source="<b>", notes=["<i>"]
    )
    return path.read_bytes().decode("ascii")


def test_the_page_is_one_file_that_asks_for_nothing(text: str) -> None:
    elements = Elements(text)
    assert not set(elements.names) & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    names = {name for name, _ in elements.attributes}
    assert not names & {"src", "href", "style", "action", "srcset"}
    assert not any(name.startswith("on") for name in names)
    assert "http:" not in text
    assert "https:" not in text


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(text: str) -> None:
    elements = Elements(text)
    (_, _, style), (_, kind, _), (_, _, script) = elements.contents
    assert kind == {"id": "data", "type": "application/json"}

    def named(content: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    assert elements.policy.split("; ") == [
        "default-src 'none'",
        f"script-src {named(script)}",
        f"style-src {named(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_hostile_text_stays_in_the_data(text: str) -> None:
    elements = Elements(text)
    assert elements.names.count("script") == 2
    _, (_, _, content), (_, _, script) = elements.contents
    data = json.loads(content)
    assert data["key_tokens"] == [token[:100] for token in HOSTILE]
    assert (data["title"], data["source"], data["notes"]) == ("</title><script>alert(2)</script>", "<b>", ["<i>"])
    assert "alert(" not in text.replace(content, "")
    assert script.count('"use strict"') == 1


def test_the_scripts_write_text_and_never_markup() -> None:
    folder = Path(__file__).parents[2] / "src" / "regard" / "look" / "page"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
    for name in SCRIPTS:
        source = (folder / name).read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(|XMLHttp", source
        ), name
        assert len(source.splitlines()) <= 250, name


def test_a_page_needs_no_tokens(layers: list[AttentionWeights], tmp_path: Path) -> None:
    content = Elements(page(layers, None, tmp_path / "page.html").read_text()).contents[1][2]
    assert json.loads(content)["key_tokens"] is None


def test_the_same_input_gives_the_same_bytes(layers: list[AttentionWeights], tmp_path: Path) -> None:
    first = page(layers, list("abcdefghijkl"), tmp_path / "a.html").read_bytes()
    assert page(layers, list("abcdefghijkl"), tmp_path / "b.html").read_bytes() == first


def test_bad_input_writes_nothing(layers: list[AttentionWeights], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens holds 1 entries, but weights has 12 keys"):
        page(layers, ["a"], tmp_path / "page.html")
    with pytest.raises(ValueError, match="max_bytes is 100"):
        page(layers, None, tmp_path / "page.html", max_bytes=100)
    assert list(tmp_path.iterdir()) == []
