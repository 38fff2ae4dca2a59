from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from regard import bench, cli
from regard.bench.machine import Machine


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture
def looked(monkeypatch):
    """What `regard look` handed on; nothing is looked at."""
    from regard.look import command

    seen: dict[str, object] = {}
    monkeypatch.setattr(command, "run", lambda **options: seen.update(options))
    return seen


def test_look_hands_on_every_option_by_its_name(looked):
    options = "a.txt --string hello --model folder --out there --layer 1 --head 2 --max-tokens 64 --no-figures --open"
    options += " --queries 4711,12 --max-mb 2.5 --serve --port 8000"
    assert run("look", *options.split()) == 0
    assert looked == {
        "text": "a.txt",
        "string": "hello",
        "model": "folder",
        "out": Path("there"),
        "layer": 1,
        "head": 2,
        "max_tokens": 64,
        "no_figures": True,
        "queries": "4711,12",
        "max_mb": 2.5,
        "serve": True,
        "port": 8000,
        "open": True,
    }


def test_look_without_options_leaves_the_choices_to_look(looked):
    assert run("look") == 0
    assert looked == {
        "text": None,
        "string": None,
        "model": "demo",
        "out": Path("regard-look"),
        "layer": None,
        "head": None,
        "max_tokens": None,
        "no_figures": False,
        "queries": None,
        "max_mb": None,
        "serve": False,
        "port": None,
        "open": False,
    }


def test_a_dash_is_standard_input_not_an_option(looked):
    assert run("look", "-") == 0
    assert looked["text"] == "-"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("text: empty\n  after reading"), "error: text: empty after reading"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "error: a.txt: No such file or directory"),
        (FileNotFoundError("text: no file a.txt"), "error: text: no file a.txt"),
        (ImportError("figures need matplotlib"), "error: figures need matplotlib"),
    ],
)
def test_what_the_user_can_mend_is_one_line_without_a_traceback(monkeypatch, capsys, error, line):
    from regard.look import command

    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(command, "run", fail)
    assert run("look") == 2
    assert capsys.readouterr().err == line + "\n"
    with pytest.raises(type(error)):
        cli.main(["--traceback", "look"])


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    from regard.look import command

    def fail(**options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["look"])


def test_ctrl_c_ends_quietly(monkeypatch, capsys):
    from regard.look import command

    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    assert run("look") == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["regard.commands", "regard.look.command"])
def test_ctrl_c_while_modules_are_imported_ends_quietly(monkeypatch, capsys, module):
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == module:
                raise KeyboardInterrupt

    importlib.import_module(module)  # so that there is something to take away
    monkeypatch.delattr(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    # A KeyboardInterrupt that comes out would end pytest itself.
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stop:
        cli.main(["look"])
    assert isinstance(stop.value, SystemExit)
    assert stop.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [AttributeError("half imported"), ImportError("half imported")])
def test_ctrl_c_that_a_library_turns_into_an_error_of_its_own_ends_quietly(monkeypatch, capsys, error):
    from regard.look import command

    def interrupt(**options: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise error  # noqa: B904 (as a library does that did not expect it)

    monkeypatch.setattr(command, "run", interrupt)
    assert run("look") == 130
    assert capsys.readouterr() == ("", "")


def test_an_unknown_option_exits_with_2(capsys):
    assert run("look", "--lair", "3") == 2
    assert "--layer" in capsys.readouterr().err


def test_bench_names_what_is_near(capsys):
    assert run("bench", "--only", "entrophy") == 2
    assert "did you mean entropy?" in capsys.readouterr().err


def test_bench_lists_its_cases(capsys):
    assert run("bench", "--list") == 0
    assert "topk(8), causal, L 8192: at most 4x, at most 300 MB" in capsys.readouterr().out


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_bench_hands_on_its_options_and_says_by_its_code_whether_all_bars_are_met(monkeypatch, met, code):
    machine = Machine("a processor", 2, 1, "AVX2", "2.13.0", "3.11", "Linux", 1.0)
    report = bench.Report(machine, "now", "0.1", quick=False, repeats=3, results=())
    monkeypatch.setattr(bench.Report, "met", met)
    seen: dict[str, object] = {}
    monkeypatch.setattr(bench, "run", lambda **options: seen.update(options) or report)
    options = "bench --only causal --only topk --quick --repeats 3 --threads 1 --json r.json"
    assert run(*options.split()) == code
    assert seen == {"only": ["causal", "topk"], "quick": True, "repeats": 3, "threads": 1, "json": Path("r.json")}


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("regard ")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "regard", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("regard ")


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "regard.commands", raising=False)
    assert run("--version") == 2
    assert capsys.readouterr().err == (
        "error: the command line needs typer, which is not installed: pip install 'regard[look]'\n"
    )
