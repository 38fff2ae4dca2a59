"""What the tests of looking share: weights with a dense twin, a model in a folder, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, attention, masks

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--remote-debugging-pipe",
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: needs chromium; skipped where there is none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("browser") and BROWSER is None:
            item.add_marker(pytest.mark.skip(reason="no chromium on this machine: apt-get install chromium"))


def make_weights(
    *shape: int, mask: masks.Mask | None = None, width: int = 8, sharp: float = 3.0, seed: int = 0
) -> AttentionWeights:
    """Real weights of shape (..., H, L, S) from random queries and keys."""
    *lead, query_len, key_len = shape
    generator = torch.Generator().manual_seed(seed)
    query = sharp * torch.randn(*lead, query_len, width, generator=generator)
    key, value = torch.randn(2, *lead, key_len, width, generator=generator)
    return attention(query, key, value, mask)[1]


@pytest.fixture
def some_weights() -> Callable[..., AttentionWeights]:
    return make_weights


@pytest.fixture
def layers() -> list[AttentionWeights]:
    """Two layers of three heads over twelve tokens, causal."""
    return [make_weights(1, 3, 12, 12, mask=masks.causal(), seed=seed) for seed in range(2)]


def cells(dense: Tensor, rows: int, cols: int) -> Tensor:
    """The pooled map by its definition, cell by cell."""
    query_len, key_len = dense.shape[-2:]
    out = torch.zeros(*dense.shape[:-2], rows, cols, dtype=dense.dtype)
    for r in range(rows):
        for c in range(cols):
            queries = slice(r * query_len // rows, (r + 1) * query_len // rows)
            keys = slice(c * key_len // cols, (c + 1) * key_len // cols)
            out[..., r, c] = dense[..., queries, keys].sum(-1).mean(-1)
    return out


@pytest.fixture
def by_definition() -> Callable[[Tensor, int, int], Tensor]:
    return cells


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model in a folder, as training writes it."""
    from regard.demo import Config, Decoder, Tokenizer
    from regard.demo.store import save

    tokenizer = Tokenizer.train(["def f(x):\n    return f(x) + f(x)\n" * 3], vocab_size=280)
    torch.manual_seed(0)
    model = Decoder(Config(len(tokenizer), d_model=16, num_heads=2, num_layers=2, d_mlp=16, context=48, max_len=64))
    folder = tmp_path_factory.mktemp("model")
    save(folder, model, tokenizer, {})
    return folder


class Browser:
    """A headless browser spoken to through a pipe: one page, its errors and the requests it makes."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp()
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        assert BROWSER is not None
        # The protocol is spoken on descriptors 3 and 4, which a shell can name without code between fork and exec.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", BROWSER, *QUIET, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, script: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path: Path, *, width: int = 1500, height: int = 1000, dark: bool = False, wait: bool = True) -> None:
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        ready = "document.documentElement?.dataset.ready === 'yes'" if wait else "document.readyState === 'complete'"
        self.evaluate(f"new Promise(done => {{ const look = () => {ready} ? done() : setTimeout(look, 5); look(); }})")

    def settle(self) -> None:
        """Waits until what was asked for has been drawn."""
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))"
        )

    def mouse(self, kind: str, x: float, y: float) -> None:
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
        self.settle()

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}.get(key, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.settle()

    def requests(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Errors and warnings of the page: exceptions, the console, violations of its policy."""
        wrong = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                wrong.append(json.dumps(params["exceptionDetails"])[:500])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                wrong.append(json.dumps(params["args"])[:500])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                wrong.append(params["entry"]["text"])
            elif method == "Page.javascriptDialogOpening":
                wrong.append(f"a dialog: {params['message']}")
        return wrong

    def close(self) -> None:
        self._session = None
        self.send("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self.profile, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()
