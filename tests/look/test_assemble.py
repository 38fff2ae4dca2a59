"""The page as one file: its policy, what stands in it, and that nothing gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import regard
from regard import AttentionWeights
from regard.look import assemble, page
from regard.look.assemble import document

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


def content_of(text: str) -> Any:
    """The data of a page."""
    (content,) = [content for _, given, content in Elements(text).contents if given.get("id") == "data"]
    return json.loads(content)


def unpacked(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_the_page_is_one_file_that_asks_for_nothing(text: str) -> None:
    elements = Elements(text)
    assert not set(elements.names) & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    names = {name for name, _ in elements.attributes}
    assert not names & {"src", "href", "style", "action", "srcset"}
    assert not any(name.startswith("on") for name in names)
    # The name of SVG is an address that nobody asks for.
    assert set(re.findall(r"https?:[^\"'`\s<]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def policy_of(text: str, *more: str) -> list[str]:
    """What the policy of this page has to be."""
    (_, _, style), _, (_, _, script) = Elements(text).contents

    def named(content: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    return [
        "default-src 'none'",
        f"script-src {named(script)}",
        f"style-src {named(style)}",
        *more,
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(text: str) -> None:
    elements = Elements(text)
    assert [(tag, given) for tag, given, _ in elements.contents] == [
        ("style", {}),
        ("script", {"id": "data", "type": "application/json"}),
        ("script", {}),
    ]
    assert elements.policy.split("; ") == policy_of(text)


def test_only_a_live_page_may_fetch_and_only_from_its_server(layers: list[AttentionWeights]) -> None:
    text = regard.look(layers).live_document("/TOKEN/")
    assert Elements(text).policy.split("; ") == policy_of(text, "connect-src 'self'")
    assert content_of(text)["live"] == "/TOKEN/"


def test_hostile_text_stays_in_the_data(text: str) -> None:
    elements = Elements(text)
    assert elements.names.count("script") == 2
    data = content_of(text)
    assert unpacked(data["texts"][0]) == [token[:100] for token in HOSTILE]
    assert (data["title"], data["source"], data["notes"]) == ("</title><script>alert(2)</script>", "<b>", ["<i>"])
    assert data["live"] is None
    content = next(content for _, given, content in elements.contents if given.get("id") == "data")
    assert "alert(" not in text.replace(content, "")
    assert not set(content) & {"<", "\u2028", "\0"}


def test_a_part_that_names_the_place_of_another_stays_a_part(layers: list[AttentionWeights]) -> None:
    text = regard.look(layers, title="%%script%%%%style%%").html
    assert content_of(text)["title"] == "%%script%%%%style%%"
    assert Elements(text).policy.split("; ") == policy_of(text)


class Anything:
    """Data without anything in them."""

    live = None

    def __init__(self, kind: str = "attention") -> None:
        self.kind = kind

    def to_json(self) -> str:
        return "{}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.js", "let a = '\u00e9'", "page/built/page.js holds characters beyond ASCII; write them as escapes"),
        ("page.js", "a = '</SCRIPT >'", "page/built/page.js holds what would end the element that it stands in"),
        ("page.css", "a { content: '</style>' }", "page/built/page.css holds what would end the element that it"),
        (
            "page.html",
            "%%data%%%%style%%",
            r"page/built/page.html has places for \['data', 'style'\]; expected",
        ),
    ],
)
def test_a_build_that_would_not_hold_is_not_used(
    name: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"page.html": "%%policy%%%%style%%%%data%%%%script%%", "page.js": "1", "page.css": ""}
    (tmp_path / "page" / "built").mkdir(parents=True)
    for file, text in (good | {name: content}).items():
        (tmp_path / "page" / "built" / file).write_text(text, encoding="utf-8")
    monkeypatch.setattr(assemble, "files", lambda _: tmp_path)
    assemble._read.cache_clear()
    try:
        with pytest.raises(AssertionError, match=message):
            document(Anything())
        (tmp_path / "page" / "built" / name).write_text(good[name], encoding="utf-8")
        assemble._read.cache_clear()
        assert document(Anything()).endswith("{}1")
    finally:
        assemble._read.cache_clear()


def test_encodings_and_masks_carry_their_own_small_script() -> None:
    scripts = {kind: Elements(document(Anything(kind))).contents[2][2] for kind in ("attention", "encoding", "mask")}
    assert scripts["encoding"] == scripts["mask"]
    assert len(scripts["mask"]) < len(scripts["attention"]) / 2
    text = regard.look.mask(regard.masks.causal(), 4).html
    assert Elements(text).policy.split("; ") == policy_of(text)


def test_a_page_needs_no_tokens(layers: list[AttentionWeights], tmp_path: Path) -> None:
    data = content_of(page(layers, None, tmp_path / "page.html").read_text())
    assert [group["key_tokens"] for group in data["groups"]] == [None]


def test_the_same_input_gives_the_same_bytes(layers: list[AttentionWeights], tmp_path: Path) -> None:
    first = page(layers, list("abcdefghijkl"), tmp_path / "a.html").read_bytes()
    assert page(layers, list("abcdefghijkl"), tmp_path / "b.html").read_bytes() == first


def test_bad_input_writes_nothing(layers: list[AttentionWeights], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens holds 1 entries, but weights has 12 keys"):
        page(layers, ["a"], tmp_path / "page.html")
    with pytest.raises(ValueError, match="max_bytes is 100"):
        page(layers, None, tmp_path / "page.html", max_bytes=100)
    with pytest.raises(ValueError, match=r"path is .*, but .* is a folder; expected the name of a file"):
        page("no weights", None, tmp_path)  # said before anything is looked at
    assert list(tmp_path.iterdir()) == []
