"""A browser for the page's tests: Debian's chromium, driven by Playwright, each page in a context of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without the sandbox, because a container's root has none; the rest keeps colours and text the same everywhere.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--font-render-hinting=none"]

READY = "() => document.documentElement?.dataset.ready === 'yes'"
# Playwright's own wait_for_function looks again by eval, which the page's content policy forbids.
UNTIL = """async (argument) => {{
  const stop = performance.now() + {limit};
  while (!({condition})(argument)) {{
    if (performance.now() > stop) return false;
    await new Promise((done) => setTimeout(done, {every}));
  }}
  return true;
}}"""
FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))"


def obstacle() -> str | None:
    """Why there is no browser here, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no Playwright: pip install 'regard[dev]'"
    return None if EXECUTABLE else "no chromium on this machine: apt-get install chromium"


def wait_until(page: Any, condition: str, argument: Any = None, *, limit_ms: int = 20_000) -> None:
    """Waits until a JavaScript function of the argument is true in the page."""
    script = UNTIL.format(condition=condition, limit=limit_ms, every=2)
    if not page.evaluate(script, argument):
        raise AssertionError(f"not so after {limit_ms / 1000:g} s: {condition} of {argument!r}")


class Tab:
    """One page: what it asks for, what it complains of, and what a reader can do to it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(5000)
        self._complaints: list[str] = []
        self._requests: list[str] = []
        page.on("request", lambda request: self._requests.append(request.url))
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._complaints.append(f"an exception: {error}"))
        page.on("dialog", self._asked)

    def _said(self, message: Any) -> None:
        # Violations of the content policy come this way, too.
        if message.type in ("error", "warning", "assert"):
            self._complaints.append(message.text)

    def _asked(self, dialog: Any) -> None:
        self._complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def complaints(self) -> list[str]:
        """Errors and warnings so far: exceptions, the console, violations of the policy, dialogs."""
        self.settle()
        return self._complaints

    def requests(self) -> list[str]:
        """The addresses asked for so far."""
        self.settle()
        return self._requests

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def settle(self) -> None:
        """Waits until what was asked for has been drawn."""
        self.page.evaluate(FRAMES)

    def until(self, condition: str, argument: Any = None) -> None:
        """Waits until a function of the argument is true, and then until that has been drawn."""
        wait_until(self.page, condition, argument)
        self.settle()

    def say(self, name: str) -> str:
        """The text of the element with this id, as it is read: on one line, and a new line is a space."""
        text = self.page.evaluate("(name) => document.getElementById(name).innerText", name)
        return " ".join(text.split())

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a selector finds."""
        return self.page.evaluate("(s) => Array.from(document.querySelectorAll(s), (e) => e.textContent)", selector)

    def count(self, selector: str = "*") -> int:
        return self.page.evaluate("(s) => document.querySelectorAll(s).length", selector)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def move(self, x: float, y: float) -> None:
        self.page.mouse.move(x, y)
        self.settle()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(x, y)
        self.settle()

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*stop, steps=4)
        self.page.mouse.up()
        self.settle()

    def focused(self) -> str:
        """The id of what has the focus, or its name and text."""
        return self.page.evaluate(
            "() => { const at = document.activeElement;"
            " return at.id || `${at.localName}: ${at.textContent.trim().slice(0, 40)}`; }"
        )

    def download(self, name: str) -> tuple[str, bytes]:
        """The file name and the bytes of what a click on the element with this id saves."""
        with self.page.expect_download(timeout=20_000) as waiting:
            self.page.evaluate("(name) => document.getElementById(name).click()", name)
        saved = waiting.value
        return saved.suggested_filename, Path(saved.path()).read_bytes()


class Browser:
    """Opens pages, each in a context of its own: nothing is kept from one to the next, and there is no network."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._contexts: list[Any] = []

    def open(
        self,
        path: Path | str,
        *,
        width: int = 1500,
        height: int = 1000,
        dark: bool = False,
        reduced_motion: bool = False,
        forced_colors: bool = False,
        offline: bool = True,
        wait: bool = True,
    ) -> Tab:
        """A tab with a page in it.

        Args:
            path: a file, or an address.
            width: of the window.
            height: of the window.
            dark: the reader prefers dark pages.
            reduced_motion: the reader prefers pages that keep still.
            forced_colors: the reader's own few colours are used.
            offline: no network; only the tests of the live server have the machine's own.
            wait: until the page says that it is ready, or only until it is loaded.
        """
        contrast: Literal["active", "none"] = "active" if forced_colors else "none"
        context = self._chromium.started().new_context(
            offline=offline,
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if reduced_motion else "no-preference",
            forced_colors=contrast,
        )
        self._contexts.append(context)
        tab = Tab(context.new_page())
        address = path.as_uri() if isinstance(path, Path) else path
        if not wait:
            tab.page.goto(address, wait_until="load")
            return tab
        tab.page.goto(address, wait_until="commit")
        tab.until(READY)
        return tab

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()


class Chromium:
    """The one browser, started when a page is first opened; after it was closed, it starts again when it is needed."""

    def __init__(self) -> None:
        self._exits: ExitStack | None = None
        self._browser: Any = None

    def started(self) -> Any:
        if self._exits is None:
            self._exits = ExitStack()
            self._browser = self._exits.enter_context(running())
        return self._browser

    def close(self) -> None:
        if self._exits is not None:
            self._exits.close()
            self._exits = None


@contextmanager
def running() -> Iterator[Any]:
    """A chromium that runs, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield chromium
        chromium.close()
