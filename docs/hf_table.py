"""Hold every architecture of transformers against its own eager attention, and write the table of docs/hf.md.

    python docs/hf_table.py           # builds and runs all of them, some minutes; then writes the record and the page
    python docs/hf_table.py --page    # the page alone, from the record

A test compares page and record and proves some architectures again; ``pytest -m thorough tests/hf`` proves all.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

RECORD = HERE / "hf_architectures.json"
PAGE = HERE / "hf.md"
MARKED = re.compile(r"<!-- hf: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
WAYS = ("watch", "register")
MOST_SECONDS = 20


# -- the record -------------------------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """An error if the block takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one(model_type: str) -> dict[str, Any]:
    """What is known of one architecture: how it is built, and what each way gave; or why it could not be tried."""
    import transformers
    from tests.hf.architectures import described
    from tests.hf.proofs import examine

    transformers.logging.set_verbosity(logging.CRITICAL)
    began = time.monotonic()
    try:
        with limited(MOST_SECONDS):
            found = described(model_type)
            found.update({way: finding.record() for way, finding in examine(model_type).items()})
    except Exception as error:
        return {"untried": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


def record() -> dict[str, Any]:
    """Every architecture that transformers has a configuration for."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from regard.bench.progress import Progress

    names = sorted(CONFIG_MAPPING.keys())
    found = {}
    with Progress(len(names)) as progress:
        for name in names:
            progress.begin(name)
            progress.stage("comparing")
            found[name] = one(name)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {"versions": versions, "architectures": found}


# -- the page ---------------------------------------------------------------------------------------------------------

KINDS = ("text, decoder", "text, encoder", "text, encoder and decoder", "text and images or sound", "images and video",
         "sound", "other")  # fmt: skip


class Page:
    """The parts of docs/hf.md that are generated.

    Args:
        record: what :func:`record` found.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.versions = record["versions"]
        every = record["architectures"]
        self.tried = {name: one for name, one in every.items() if "untried" not in one}
        self.untried = {name: one["untried"] for name, one in every.items() if "untried" in one}
        self.seen = {name: one for name, one in self.tried.items() if any(proven(one[way]) for way in WAYS)}

    def filled(self, text: str) -> str:
        """The page with every generated part written anew."""
        return MARKED.sub(lambda m: f"<!-- hf: {m[1]} -->\n{getattr(self, '_' + m[1])()}\n<!-- end -->", text)

    def _counts(self) -> str:
        counts = {way: sum(proven(one[way]) for one in self.seen.values()) for way in WAYS}
        whole = {way: sum(entire(one[way]) for one in self.seen.values()) for way in WAYS}
        either = sum(any(entire(one[way]) for way in WAYS) for one in self.seen.values())
        both = sum(all(entire(one[way]) for way in WAYS) for one in self.seen.values())
        held = sum(proven(one["register"]) and one["register"]["in_outputs"] > 0 for one in self.seen.values())
        return (
            f"**{either} architectures** of {self.versions}, every attention of them: {whole['watch']} by "
            f"`regard.watch`, {whole['register']} by `regard.hf.register()`, {both} by both. Others are seen in part: "
            f"{counts['watch'] - whole['watch']} by `regard.watch`, {counts['register'] - whole['register']} by "
            f"`register()`. {held} put their weights into the outputs (`output_attentions=True`)."
        )

    def _table(self) -> str:
        lines = []
        for kind in KINDS:
            rows = {name: one for name, one in self.seen.items() if one["kind"] == kind}
            if rows:
                lines += ["", f"### {kind[0].upper()}{kind[1:]} ({len(rows)})", ""]
                lines += [
                    "| architecture | attention | `watch` | `register()` | in the outputs |",
                    "|---|---|---|---|---|",
                ]
                lines += [self._row(name, one) for name, one in sorted(rows.items())]
        return "\n".join(lines[1:])

    def _row(self, name: str, one: dict[str, Any]) -> str:
        cells = [self._cell(one[way]) for way in WAYS]
        held = "yes" if proven(one["register"]) and one["register"]["in_outputs"] else "-"
        return f"| `{name}` | {', '.join(one['traits'])} | {' | '.join(cells)} | {held} |"

    def _cell(self, way: dict[str, Any]) -> str:
        if not proven(way):
            return reason(way["reason"])
        calls = way["calls"] + way["by_hand"]
        share = f"{way['calls']} of {calls} calls" if way["by_hand"] else "yes"
        return f"{share}, {way['error']:.0e}"

    def _unseen(self) -> str:
        groups: dict[str, list[str]] = {}
        for name, one in self.tried.items():
            if name not in self.seen:
                groups.setdefault(" / ".join(dict.fromkeys(reason(one[way]["reason"]) for way in WAYS)), []).append(
                    name
                )
        return _listed(groups)

    def _untried(self) -> str:
        groups: dict[str, list[str]] = {}
        for name, why in self.untried.items():
            groups.setdefault(untried(why), []).append(name)
        return _listed(groups)


def proven(way: dict[str, Any]) -> bool:
    """Whether a way gave the right weights."""
    return not way["reason"] and way["calls"] > 0


def entire(way: dict[str, Any]) -> bool:
    """Whether that is so of every attention of the model."""
    return proven(way) and way["by_hand"] == 0


REASONS = [
    (r"NoAttentionSeen: no attention call seen in", "computes it by hand"),
    (r"NoAttentionSeen: no attention call seen, and no softmax", "no softmax attention in the tiny model"),
    (r"Unseen", "not through the interface"),
    (r"adds its attention mask", "some layers compute by hand, and `register()` refuses their mask"),
    (r"sdpa and eager attention differ", "transformers' own sdpa differs from eager"),
    (r"eager attention itself gives NaN", "eager attention itself gives NaN here"),
    (r"true weights are uniform", "weights of the tiny model are uniform, and would show nothing"),
]


def reason(given: str) -> str:
    """The reason in a few words."""
    found = next((words for pattern, words in REASONS if re.search(pattern, given)), None)
    padded = re.match(r"(left|right) padding: ", given)
    return f"with {padded[1]} padding: {found}" if found and padded else found or given.replace("|", "\\|")


def untried(given: str) -> str:
    """Why an architecture could not be run, in a few words."""
    package = re.search(r"requires the (\w+) library|No module named '(\w+)'", given)
    if package:
        return f"needs the package {package[1] or package[2]}"
    if "no model class" in given or "forward" in given:
        return "no model of its own that is called with a batch"
    if "not tiny" in given:
        return "the rules fail to make it tiny"
    return "a tiny configuration or its inputs need more than the rules know"


def _listed(groups: dict[str, list[str]]) -> str:
    groups = dict(sorted(groups.items(), key=lambda item: -len(item[1])))
    return "\n".join(f"- {why} ({len(names)}): {', '.join(f'`{n}`' for n in names)}" for why, names in groups.items())


def read() -> Page:
    """The page of the record that is there."""
    return Page(json.loads(RECORD.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> None:
    """Record, unless only the page is asked for, and write the page."""
    from regard.look.files import write_atomically

    if arguments not in ([], ["--page"]):
        raise SystemExit("usage: python docs/hf_table.py [--page]")
    if not arguments:
        write_atomically(RECORD, (json.dumps(record(), indent=1) + "\n").encode())
    text = PAGE.read_text(encoding="utf-8")
    write_atomically(PAGE, read().filled(text).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
