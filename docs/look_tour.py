"""Answer the five questions of the tour in docs/look.md on a page, and take its pictures: python docs/look_tour.py.

Needs Debian's chromium and Playwright, as the tests of the page do. The page is what `regard look` writes of its
default text; the answers are printed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from playwright.sync_api import sync_playwright

import regard
from regard.look import command

HERE = Path(__file__).parent / "look"


def main(out: Path = HERE) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        made = command.run(out=folder, no_figures=True).page
        regard.look.encoding(regard.PositionalEncoding(64, 200)).save(folder / "encoding.html")
        mask = regard.masks.causal() & regard.masks.window(40) | regard.masks.prefix(8)
        regard.look.mask(mask, 200).save(folder / "mask.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tour(browser, made, out)
        for kind in ("encoding", "mask"):
            picture(opened(browser, folder / f"{kind}.html", height=760), out / f"{kind}.png")
        picture(opened(browser, made, dark=True), out / "dark.png")
        picture(opened(browser, made, width=400, height=1200), out / "narrow.png")
        browser.close()


def tour(browser: Any, path: Path, out: Path) -> None:
    page = opened(browser, path)
    say("Which head copies?", page, "#guide li")
    picture(page, out / "page.png")
    page.fill("#find", "#211")
    page.press("#find", "Enter")
    say("Where does token 211 look?", page, "#top li")
    picture(page, out / "row.png")
    say("What is this head's sink?", page, "#most-read li")
    page.select_option("#compare-with", index=1)
    settle(page)
    page.hover("#map", position={"x": 200, "y": 420})
    settle(page)
    say("How do two heads differ?", page, "#readout")
    picture(page, out / "compare.png")
    page.select_option("#compare-with", index=0)
    page.check("#hide-first")
    settle(page)
    say("What does it read when the first key is left out?", page, "#top li")
    picture(page, out / "without_first.png")
    page.uncheck("#hide-first")
    page.locator("#windows button").first.click()
    settle(page)
    picture(page, out / "zoom.png")


def opened(browser: Any, path: Path, *, width: int = 1440, height: int = 1000, dark: bool = False) -> Any:
    scheme = "dark" if dark else "light"
    page = browser.new_context(
        offline=True, viewport={"width": width, "height": height}, color_scheme=scheme
    ).new_page()
    page.goto(path.as_uri())
    page.locator("html[data-ready=yes]").wait_for(state="attached")
    settle(page)
    return page


def settle(page: Any) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def say(question: str, page: Any, where: str) -> None:
    settle(page)
    print(f"{question}  {page.locator(where).first.inner_text()!r} ({page.locator('#head-name').inner_text()})")


def picture(page: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
