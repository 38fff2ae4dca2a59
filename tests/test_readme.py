"""What the README shows is run: Python in order, in one namespace; `>>>` with its output; commands by their names."""

from __future__ import annotations

import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def run(block: Block, names: dict[str, object]) -> None:
    if block.language == "pycon":
        test = doctest.DocTestParser().get_doctest(block.text, names, "README.md", str(README), block.line - 1)
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        doctest.DebugRunner(optionflags=flags).run(test, clear_globs=False)
        names.update(test.globs)
    else:
        # Empty lines before it, so that a traceback has the README's line numbers.
        exec(compile("\n" * (block.line - 1) + block.text, str(README), "exec"), names)


def commands(text: str) -> list[str]:
    """The commands of shell blocks, without prompts; where some lines have a prompt, the others are output."""
    found = []
    for block in blocks(text):
        if block.language in ("bash", "sh", "shell", "console"):
            lines = [line.strip() for line in block.text.splitlines() if line.strip()]
            if any(line.startswith("$ ") for line in lines):
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            found += [line for line in lines if not line.startswith("#")]
    return found


def problem(command: str) -> str | None:
    """Why a command of the README would not run, as far as can be told without running it."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        asked = [word for word in words[1:] if "=" not in word]
        return next((f"make has no target {word}" for word in asked if word not in targets), None)
    if words[0] == "regard":
        return regard_problem(words[1:])
    if words[0] in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        return None if (ROOT / words[1]).exists() else f"there is no {words[1]}"
    return None


def regard_problem(words: list[str]) -> str | None:
    import typer

    from regard.commands import app

    group = typer.main.get_command(app)
    known = getattr(group, "commands", {})
    if words and not words[0].startswith("-") and words[0] not in known:
        return f"regard has no command {words[0]}"
    options = {option for each in (group, *known.values()) for parameter in each.params for option in parameter.opts}
    asked = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((f"regard has no option {word}" for word in asked if word not in {*options, "--help"}), None)


def test_the_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [block for block in blocks(README.read_text(encoding="utf-8")) if block.language in ("python", "pycon")]
    assert found, "the README shows no Python"
    names: dict[str, object] = {"__name__": "readme"}
    # As torchrun starts a process, of which there is one here.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        for block in found:
            run(block, names)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_the_commands_exist():
    found = commands(README.read_text(encoding="utf-8"))
    assert {"make demo", "make test"} <= {" ".join(shlex.split(line, comments=True)) for line in found}
    assert {line: problem(line) for line in found if problem(line)} == {}


def test_the_links_lead_somewhere():
    for file in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / file).read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|#", target):
                assert (ROOT / target.partition("#")[0]).exists(), f"{file} links to {target}"


SAMPLE = """
```python
x = 2
```
text
```pycon
>>> x + 1
3
>>> y = x * 2
```
```python
assert y == 4
raise KeyError("here")
```
```console
$ make demo
looks at something
$ regard look --nose 3
```
"""


def test_this_test_sees_what_is_wrong():
    first, second, third, _ = blocks(SAMPLE)
    names: dict[str, object] = {}
    run(first, names)
    run(second, names)
    with pytest.raises(KeyError) as error:
        run(third, names)
    assert error.traceback[-1].lineno + 1 == SAMPLE.splitlines().index('raise KeyError("here")') + 1
    with pytest.raises(doctest.DocTestFailure):
        run(Block("pycon", ">>> x + 1\n4\n", 1), names)
    assert commands(SAMPLE) == ["make demo", "regard look --nose 3"]
    assert problem("make demo TEXT=a.txt  # yours") is None
    assert problem("make coffee") == "make has no target coffee"
    assert problem("regard look --nose 3") == "regard has no option --nose"
    assert problem("regard smell") == "regard has no command smell"
    assert problem("python examples/nothing.py") == "there is no examples/nothing.py"
