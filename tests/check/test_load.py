"""Code from files, notebooks and packages; and what is said where there is none."""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from pathlib import Path

import pytest
import torch

from regard.check.load import load_module, load_object


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch):
    """What a test loads is not there for the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "regard.")):
            monkeypatch.delitem(sys.modules, name)


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def notebook(path: Path, *cells: str | list[str], **more: object) -> str:
    listed = [{"cell_type": "markdown", "source": ["# not code"]}]
    listed += [{"cell_type": "code", "source": cell, "outputs": []} for cell in cells]
    return written(path, json.dumps({"cells": listed, "nbformat": 4, **more}))


SOLUTION = """
import torch
from dataclasses import dataclass

def att_score(q): return q
def attention_score(q): return q

class Layer(torch.nn.Module):
    def forward(self, x): return x

@dataclass
class Config:
    width: int = 3

NUMBER = 7
if __name__ == "__main__":
    raise RuntimeError("run as a script")
"""


def test_a_file(tmp_path: Path):
    spec = written(tmp_path / "my solution.py", SOLUTION)
    assert load_object(spec + ":att_score")(3) == 3
    assert load_object(spec + ":Layer.forward").__qualname__ == "Layer.forward"
    assert load_object(spec + ":NUMBER") == 7
    config = load_object(spec + ":Config")
    assert config().width == 3
    assert sys.modules[config.__module__].Config is config
    assert list(tmp_path.iterdir()) == [tmp_path / "my solution.py"]  # no bytecode


def test_a_package():
    assert load_object("torch.nn.functional:scaled_dot_product_attention") is (
        torch.nn.functional.scaled_dot_product_attention
    )
    assert load_object("torch.nn:MultiheadAttention.forward") is torch.nn.MultiheadAttention.forward


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / "lying_here.py", "def f(): return 1")
    monkeypatch.chdir(tmp_path)
    assert load_object("lying_here:f")() == 1


def test_its_folder_can_be_imported_from(tmp_path: Path):
    written(tmp_path / "beside_it.py", "ANSWER = 42")
    before = list(sys.path)
    module = load_module(written(tmp_path / "mine.py", "from beside_it import ANSWER"))
    assert module.ANSWER == 42
    assert sys.path == before
    assert not (tmp_path / "__pycache__").exists()


def test_two_files_of_one_name(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load_module(written(tmp_path / "a" / "solution.py", "X = 1"))
    second = load_module(written(tmp_path / "b" / "solution.py", "X = 2"))
    assert (first.X, second.X) == (1, 2)
    assert sys.modules[first.__name__] is first


def test_a_notebook(tmp_path: Path):
    path = notebook(
        tmp_path / "nb.ipynb",
        ["from __future__ import annotations\n", "%matplotlib inline\n", "!pip install torch\n", "import torch\n"],
        "%%bash\nrm -rf everything (",
        "%%time\nX = 1\nif X:\n    !ls\n    Y = ('%d'\n    % 3)\ntorch?\nfiles = !ls",
        'TEXT = """\n%not a magic\n!nor this\n"""',
        "def f(x: NotDefined):\n    return 1 / x",
        "if __name__ == '__main__':\n    raise RuntimeError",
    )
    module = load_module(path)
    assert (module.X, module.Y, module.TEXT) == (1, "3", "\n%not a magic\n!nor this\n")
    assert module.f.__annotations__ == {"x": "NotDefined"}  # the import of the first cell holds for all
    with pytest.raises(ZeroDivisionError) as raised:
        module.f(0)
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == ("nb.ipynb, cell 5", 2, "return 1 / x")
    assert inspect.getsource(module.f).strip() == "def f(x: NotDefined):\n    return 1 / x"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            ["x = 1", "%matplotlib inline\n\nx = undefined"],
            "cell 2, line 3: NameError: name 'undefined' is not defined",
        ),
        (["x = 1", "!ls\ndef f(:"], "cell 2, line 2: SyntaxError: "),
        (["import sys", "sys.exit(3)"], "cell 2, line 1: it calls sys.exit()"),
    ],
)
def test_a_notebook_that_does_not_run(tmp_path: Path, cells: list[str], said: str):
    with pytest.raises(ImportError) as raised:
        load_module(notebook(tmp_path / "nb.ipynb", *cells))
    assert str(raised.value).startswith(f"{tmp_path / 'nb.ipynb'} does not import: {said}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{not json", "is not a notebook: it is not valid JSON"),
        ("[1, 2]", "it has no list of cells"),
        ('{"worksheets": []}', "it has no list of cells"),
        ('{"cells": [{"cell_type": "markdown", "source": "text"}]}', "has no code: 0 code cells"),
        ('{"cells": [{"cell_type": "code", "source": [" "]}]}', "has no code: 1 code cells, all of them empty"),
        ("", "it is not valid JSON"),
    ],
)
def test_what_is_no_notebook(tmp_path: Path, content: str, said: str):
    with pytest.raises(ValueError) as raised:
        load_module(written(tmp_path / "nb.ipynb", content))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\nx = undefined\n", "line 3: NameError: name 'undefined' is not defined"),
        ("def f(:\n", "line 1: SyntaxError: "),
        ("x = 1\nimport no_such_thing_at_all\n", "line 2: ModuleNotFoundError: No module named 'no_such_thing_at_all'"),
        ("import sys\nsys.exit('bye')\n", "line 2: it calls sys.exit()"),
        ("def f():\n    return {}['k']\nf()\n", "line 2: KeyError: 'k'"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError: "),
        ("raise ValueError('two\\nlines \\x1b[31m')\n", "line 1: ValueError: two lines ␛[31m"),
        ("open('/no/such/file')\n", "line 1: FileNotFoundError: "),
        ("raise Exception\n", "line 1: Exception"),
        ("x = '\0'", "SyntaxError: source code "),
    ],
)
def test_a_file_that_does_not_run(tmp_path: Path, text: str, said: str):
    before = set(sys.modules)
    with pytest.raises(ImportError) as raised:
        load_module(written(tmp_path / "mine.py", text))
    assert str(raised.value).startswith(f"{tmp_path / 'mine.py'} does not import: {said}")
    assert not [name for name in set(sys.modules) - before if name.startswith("_loaded")]


def test_an_interrupt_and_want_of_memory_are_no_faults_of_the_code(tmp_path: Path):
    for name in ("KeyboardInterrupt", "MemoryError"):
        with pytest.raises((KeyboardInterrupt, MemoryError)):
            load_module(written(tmp_path / "mine.py", f"raise {name}"))


def test_no_such_file(tmp_path: Path):
    written(tmp_path / "solution.py", "")
    with pytest.raises(ValueError) as raised:
        load_object(str(tmp_path / "soluton.py") + ":f")
    assert str(raised.value) == f"there is no {tmp_path / 'soluton.py'}; did you mean solution.py?"
    with pytest.raises(ValueError, match="nor a folder"):
        load_module(tmp_path / "nowhere" / "solution.py")
    with pytest.raises(ValueError, match="is a folder"):
        load_module(tmp_path)
    with pytest.raises(ValueError, match=r"neither a \.py nor an .ipynb file"):
        load_module(written(tmp_path / "solution.txt", ""))


def test_no_such_name(tmp_path: Path):
    spec = written(tmp_path / "mine.py", SOLUTION)
    with pytest.raises(ValueError) as raised:
        load_object(spec + ":atention_score")
    assert str(raised.value) == (
        f"there is no atention_score in {spec}; did you mean attention_score or att_score? "
        "It has att_score, attention_score, Layer, Config."
    )
    with pytest.raises(ValueError, match=r"there is no Layer\.forwart in .*; did you mean forward\?"):
        load_object(spec + ":Layer.forwart")
    with pytest.raises(ValueError, match="It has nothing that can be called"):
        load_object(written(tmp_path / "empty.py", "") + ":f")


def test_no_name(tmp_path: Path):
    spec = written(tmp_path / "mine.py", SOLUTION)
    for given in (spec, spec + ":"):
        with pytest.raises(ValueError) as raised:
            load_object(given)
        assert str(raised.value) == (
            f"{given!r} names no object; expected {spec}:NAME. It has att_score, attention_score, Layer, Config."
        )
    with pytest.raises(ValueError, match=r"expected torch\.nn:NAME\. It has .* and \d+ more\."):
        load_object("torch.nn")


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        (
            "",
            ValueError,
            "'' is no module; expected path/file.py:NAME, path/notebook.ipynb:NAME or package.module:NAME",
        ),
        ("some/folder:f", ValueError, "'some/folder' is no module; expected path/file.py:NAME"),
        ("no_such_package:f", ImportError, "there is no module no_such_package"),
        (
            "torch.no_such:f",
            ImportError,
            "there is no module torch.no_such; an object in torch is written torch:no_such",
        ),
        (
            "torch.nn.Linear",
            ImportError,
            "there is no module torch.nn.Linear; an object in torch.nn is written torch.nn:Li",
        ),
        ("broken_here:f", ImportError, "broken_here does not import: ZeroDivisionError: division by zero"),
        ("exits_here:f", ImportError, "exits_here does not import: it calls sys.exit()"),
        ("needs_more:f", ImportError, "needs_more does not import: No module named 'no_such_thing_at_all'"),
    ],
)
def test_modules_that_are_not_there(spec, kind, said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / "broken_here.py", "1 / 0")
    written(tmp_path / "exits_here.py", "raise SystemExit")
    written(tmp_path / "needs_more.py", "import no_such_thing_at_all")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as raised:
        load_object(spec)
    assert str(raised.value).startswith(said)
