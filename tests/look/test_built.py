"""The built page that the wheel ships: made from these sources, small, plain, and with pinned tools."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

import regard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "src" / "regard" / "look" / "page"
BUILT = ["page.css", "page.html", "page.js", "plain.css", "plain.js", "served.js"]
KINDS = {".js", ".css", ".html", ".mjs"}
# Ways to make elements or code out of text, any of which a hostile token could come to.
FORBIDDEN = [
    r"innerHTML",
    r"outerHTML",
    r"insertAdjacentHTML",
    r"document\.write",
    r"createContextualFragment",
    r"DOMParser",
    r"\beval\b",
    r"new Function",
    r"javascript:",
    r"setAttribute\([\"'`](?:on|style)",
]


def built(name: str) -> str:
    return (PAGE / "built" / name).read_text(encoding="utf-8")


def source_hash(folder: Path) -> str:
    """What `build.mjs` writes at the head of each file it builds."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in KINDS):
        found.update(f"{file.name}\0{file.read_text(encoding='utf-8')}\0".encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", BUILT)
def test_the_built_page_is_that_of_these_sources(name: str) -> None:
    assert source_hash(PAGE) in built(name)[:60], f"page/built/{name} is stale: run make page"


def test_nothing_but_the_page_is_built() -> None:
    assert sorted(file.name for file in (PAGE / "built").iterdir()) == BUILT


@pytest.mark.parametrize(("name", "least"), [("page", 30_000), ("plain", 10_000)])
def test_it_is_small_and_ascii(name: str, least: int) -> None:
    contents = [built("page.html"), built(f"{name}.css"), built(f"{name}.js")]
    assert all(content.isascii() for content in contents)
    # Less would be a page that does nothing.
    assert least < sum(map(len, contents)) <= 60_000


def test_a_served_page_adds_only_what_fetches() -> None:
    # The live client stands in no page that is a file; what it adds is bounded by itself.
    assert 0 < len(built("served.js")) - len(built("page.js")) <= 2_500
    assert len(built("page.html")) + len(built("page.css")) + len(built("served.js")) <= 60_000


def test_names_of_the_data_that_are_spelled_short_are_read_in_quotes() -> None:
    own = re.search(r"const OWN = wordsOf\(`([^`]+)`", (PAGE / "build.mjs").read_text(encoding="utf-8"))
    assert own
    names = set(own[1].split())
    assert len(names) > 10
    data = regard.look(regard.attention(*torch.randn(3, 1, 1, 4, 2))[1], list("abcd")).data.to_json()
    both = set(re.findall(r'"(\w+)":', data)) & names
    # The document keeps its names, so that one place alone reads them, and in quotes: built, they stand there in full.
    read = set(re.findall(r'\["(\w+)"\]', (PAGE / "decode.js").read_text(encoding="utf-8")))
    assert both <= read | set(_statistics(data))
    for name in ("page.js", "served.js"):
        assert {each for each in both & read if not re.search(rf"\.{each}\b", built(name))} == set()


def _statistics(data: str) -> list[str]:
    """The names of the scores, which are looked up by what a list says."""
    return [each["name"] for each in json.loads(data)["groups"][0]["statistics"]]


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_text_becomes_an_element_or_code(pattern: str) -> None:
    files = [PAGE / "built" / name for name in BUILT] + [file for file in PAGE.iterdir() if file.suffix in KINDS]
    assert [file.name for file in files if re.search(pattern, file.read_text(encoding="utf-8"))] == []


def test_the_html_has_no_handlers_no_styles_and_asks_for_nothing() -> None:
    for html in (built("page.html"), (PAGE / "page.html").read_text(encoding="utf-8")):
        assert re.findall(r"<[^>]*\s(on\w+|style|src|href|srcset|action)\s*=", html) == []
        assert re.findall(r"<(?:link|iframe|object|embed|img|base|form)\b", html) == []
    assert re.findall(r"url\((?!\s*[\"']?data:)|@import", built("page.css") + built("plain.css")) == []


def test_every_place_of_the_page_is_filled_once() -> None:
    places = built("page.html").split("%%")[1::2]
    assert sorted(places) == ["data", "policy", "script", "style"]
    for name in BUILT:
        if name != "page.html":
            # What would be taken for a place, or end the element that holds it.
            assert not re.search("%%|</script|</style|<!--", built(name), re.IGNORECASE)


def test_a_source_file_fits_in_a_head() -> None:
    for file in PAGE.glob("*.*js"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, file.name
        assert file.read_text(encoding="utf-8").isascii(), file.name


def test_the_tools_are_pinned_and_say_nothing_of_where_they_came_from() -> None:
    if not (ROOT / "package.json").exists():
        pytest.skip("no package.json: not a checkout")
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    text = (ROOT / "package-lock.json").read_text(encoding="utf-8")
    locked = json.loads(text)["packages"]
    assert locked[""]["devDependencies"] == wanted
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} is not pinned"
        assert locked[f"node_modules/{name}"]["version"] == version
    for name, package in locked.items():
        assert "resolved" not in package, f"{name} names a registry"
        assert name == "" or package.get("integrity"), f"{name} has no hash"
