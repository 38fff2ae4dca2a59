"""Size and speed of the page in a browser, beside BertViz's: `python benchmarks/page.py --json benchmarks/page.json`.

Twelve layers of twelve heads at 100, 1,000, 10,000 and 100,000 tokens. Each page is opened in a fresh context without a
network, in turns with the others; figures are medians. BertViz is no dependency of regard's: without --bertviz FOLDER
its part is skipped. To get it, with the scripts that its page asks a CDN for (the browser gets them from the folder):

    pip install --target FOLDER --no-deps bertviz==1.4.1
    pip install ipython
    npm install --prefix FOLDER d3@5.7.0 jquery@2.1.4 requirejs@2.3.6
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regard import AttentionWeights, __version__, attention_weights, masks

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.look.browsing import FRAMES, obstacle, running, wait_until  # noqa: E402

LAYERS, HEADS, WIDTH = 12, 12, 16
LENGTHS = (100, 1_000, 10_000, 100_000)
WINDOW = 64  # beyond 10,000 tokens, so that the statistics take minutes and not hours
BESIDE = 100  # the length at which BertViz is measured
BARS = {"mb": 5.0, "ready_ms": 1000.0, "head_ms": 50.0, "build_s": 3.0, "times_faster": 20.0, "times_smaller": 8.0}

# When the page says that it is ready, and that has been painted.
OURS = """new MutationObserver((_, watch) => {
  if (document.documentElement?.dataset.ready !== "yes") return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => performance.mark("painted")));
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-ready"] });"""
# BertViz draws in one go: when there are lines, all have been drawn.
THEIRS = """const look = () => document.querySelector("svg line")
  ? requestAnimationFrame(() => setTimeout(() => performance.mark("painted"))) : setTimeout(look, 5);
look();"""
PAINTED = "() => performance.getEntriesByName('painted').length > 0"
PATIENCE_MS = 300_000


def mask(length: int) -> masks.Mask:
    return masks.causal() if length <= 10_000 else masks.causal() & masks.window(WINDOW)


def layers(length: int) -> list[AttentionWeights]:
    """Weights of random queries and keys: nothing compresses worse."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(LAYERS):
        q, k = torch.randn(2, 1, HEADS, length, WIDTH, generator=generator)
        made.append(attention_weights(2 * q, k, mask(length)))
    return made


def tokens(length: int) -> list[str]:
    return [f"token{at % 977} " for at in range(length)]


def build(length: int, folder: Path) -> dict[str, Any]:
    """Writes a page, if it is not there yet; says how long its statistics took and how long all else did."""
    from regard.look import measure
    from regard.look.assemble import document
    from regard.look.collect import page_data
    from regard.look.files import write_atomically

    path = folder / f"regard-{length}.html"
    figures = path.with_suffix(".json")
    if path.exists() and figures.exists():
        return json.loads(figures.read_text(encoding="utf-8")) | {"path": path}
    weights = layers(length)
    start = time.perf_counter()
    measured = measure(weights, tokens=tokens(length))
    middle = time.perf_counter()
    write_atomically(path, document(page_data(measured, title=f"{length:,} tokens")).encode("ascii"))
    stop = time.perf_counter()
    size = path.stat().st_size
    print(
        f"L {length:,}: statistics {middle - start:.1f} s, page {stop - middle:.2f} s, {size / 1e6:.2f} MB", flush=True
    )
    found = {
        "tokens": length,
        "mask": repr(mask(length)),
        "bytes": size,
        "statistics_s": middle - start,
        "build_s": stop - middle,
    }
    figures.write_text(json.dumps(found), encoding="utf-8")
    return found | {"path": path}


def build_bertviz(folder: Path, source: Path) -> dict[str, Any]:
    """BertViz's model view of the same weights, written as the stand-alone page that it returns."""
    sys.path.insert(0, str(source))
    from bertviz import model_view

    dense = tuple(weights.to_dense() for weights in layers(BESIDE))
    start = time.perf_counter()
    html = model_view(dense, tokens(BESIDE), html_action="return").data
    path = folder / "bertviz.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{html}</body>", encoding="utf-8")
    seconds = time.perf_counter() - start
    print(f"BertViz, L {BESIDE}: {seconds:.2f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)
    return {"path": path, "tokens": BESIDE, "bytes": path.stat().st_size, "build_s": seconds}


def from_folder(source: Path) -> Callable[[Any], None]:
    """Answers BertViz's requests to a CDN with the files that npm has put into a folder."""
    modules = source / "node_modules"
    scripts = {"require": modules / "requirejs" / "require.js"}
    scripts |= {"d3": modules / "d3" / "dist" / "d3.min.js", "jquery": modules / "jquery" / "dist" / "jquery.min.js"}

    def answer(route: Any) -> None:
        name = route.request.url.rpartition("/")[2].partition(".")[0]
        route.fulfill(path=scripts[name], content_type="text/javascript")

    return answer


def visit(chromium: Any, subject: dict[str, Any], mark: str, answer: Callable[[Any], None] | None = None) -> Any:
    """Opens a page in a fresh context; returns (context, page, milliseconds from the navigation to what is painted)."""
    context = chromium.new_context(offline=answer is None, viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    page.add_init_script(mark)
    if answer is not None:
        page.route(re.compile("^https:"), answer)
    page.goto(subject["path"].as_uri(), wait_until="commit", timeout=PATIENCE_MS)
    wait_until(page, PAINTED, limit_ms=PATIENCE_MS)
    return context, page, page.evaluate("performance.getEntriesByName('painted')[0].startTime")


def head_changes(page: Any, count: int = 20) -> list[float]:
    """Milliseconds from a click on a tile until its head is drawn, as the page measures itself.

    The tiles are far apart: none is a neighbour that the page has unpacked in advance.
    """
    box = page.locator("#tile-canvas").bounding_box()
    left, top = 24, 14  # the names of the layers and heads stand there
    wide, high = (box["width"] - left) / HEADS, (box["height"] - top) / LAYERS
    page.wait_for_timeout(300)  # what is unpacked when idle is not in the way
    page.evaluate("() => performance.clearMeasures('head')")
    for at in range(count):
        layer, head = (5 * at + 2) % LAYERS, (7 * at + 3) % HEADS
        page.mouse.click(box["x"] + left + (head + 0.4) * wide, box["y"] + top + (layer + 0.4) * high)
        wait_until(page, "(n) => performance.getEntriesByName('head').length > n", at)
        page.evaluate(FRAMES)
    return page.evaluate("performance.getEntriesByName('head').map((entry) => entry.duration)")


def measure_ours(chromium: Any, subject: dict[str, Any]) -> None:
    context, page, ready = visit(chromium, subject, OURS)
    subject.setdefault("ready_runs_ms", []).append(ready)
    subject["nodes"] = page.evaluate("document.querySelectorAll('*').length")
    subject.setdefault("head_runs_ms", []).extend(head_changes(page))
    context.close()


def measure_theirs(chromium: Any, subject: dict[str, Any], answer: Callable[[Any], None]) -> None:
    context, page, ready = visit(chromium, subject, THEIRS, answer)
    subject.setdefault("ready_runs_ms", []).append(ready)
    subject["nodes"] = page.evaluate("document.querySelectorAll('*').length")
    context.close()


def summary(subject: dict[str, Any]) -> dict[str, Any]:
    """The recorded figures of one page: medians, and the worst head change."""
    found = {name: value for name, value in subject.items() if name not in ("path", "head_runs_ms", "ready_runs_ms")}
    found["ready_ms"] = statistics.median(subject["ready_runs_ms"])
    found["ready_runs_ms"] = subject["ready_runs_ms"]
    if "head_runs_ms" in subject:
        found["head_ms"] = statistics.median(subject["head_runs_ms"])
        found["head_worst_ms"] = max(subject["head_runs_ms"])
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def record(pages: list[dict[str, Any]], theirs: dict[str, Any] | None, browser: str) -> dict[str, Any]:
    run: dict[str, Any] = {
        "what": f"{LAYERS} layers x {HEADS} heads, headless",
        "machine": {"cpu": cpu(), "threads": torch.get_num_threads(), "torch": torch.__version__, "browser": browser},
        "regard": __version__,
        "bars": BARS,
        "pages": [summary(page) for page in pages],
        "bertviz": None,
    }
    beside = [page for page in run["pages"] if page["tokens"] == BESIDE]
    if theirs is not None and beside:
        run["bertviz"] = summary(theirs) | {
            "version": "1.4.1",
            "times_faster": theirs_over_ours(theirs, beside[0]),
            "times_smaller": round(theirs["bytes"] / beside[0]["bytes"], 2),
        }
    return run


def theirs_over_ours(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    return round(statistics.median(theirs["ready_runs_ms"]) / ours["ready_ms"], 2)


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bertviz", type=Path, help="the folder that BertViz and its scripts were installed into")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=Path, help="a folder to keep the pages in: making them takes most of the time")
    parser.add_argument("--json", type=Path, default=None, help="where the run is recorded")
    options = parser.parse_args()
    if reason := obstacle():
        parser.error(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = options.pages or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        pages = [build(length, folder) for length in options.lengths]
        theirs = None
        if options.bertviz is None:
            print("SKIPPED: BertViz, for want of --bertviz FOLDER (see the head of this file)")
        else:
            theirs = build_bertviz(Path(name), options.bertviz)
            answer = from_folder(options.bertviz)
        with running() as chromium:
            visit(chromium, pages[0], OURS)[0].close()  # the browser's own first start
            for at in range(options.rounds):
                for page in pages if at % 2 == 0 else pages[::-1]:
                    measure_ours(chromium, page)
                # Half a minute each: three are enough.
                if theirs is not None and at < 3:
                    measure_theirs(chromium, theirs, answer)
            run = record(pages, theirs, f"Chromium {chromium.version}")
    text = json.dumps(run, indent=1) + "\n"
    print(text)
    if options.json is not None:
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
