"""The rules of the house: what an import costs, which way the arrows run, how large a file may be."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))
# Parts that stand on the core. They use its public names; the core does not know them when it is imported.
UPPER = {"watch", "hf", "models", "look", "check", "bench", "demo", "cli", "commands", "__main__"}
# What is public: the package itself, and the modules that it offers by name.
PUBLIC = {"regard", "regard.reference", "regard.masks", "regard.positions", "regard.projection", "regard.qk_norm"}

ADDED = """
import json, sys, time
import torch
before = set(sys.modules)
wall, cpu = time.perf_counter(), time.process_time()
import regard
spent = min(time.perf_counter() - wall, time.process_time() - cpu)
print(json.dumps({"modules": sorted(set(sys.modules) - before), "seconds": spent}))
"""


@pytest.fixture(scope="module")
def added() -> list[dict]:
    """What `import regard` added in each of three fresh interpreters, which had torch already."""
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-W", "error", "-c", ADDED], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return runs


def test_import_brings_in_torch_and_nothing_else(added):
    roots = {name.partition(".")[0] for name in added[0]["modules"]}
    assert "regard" in roots
    assert roots - {"regard", "torch"} - set(sys.stdlib_module_names) == set()


def test_import_leaves_what_is_above_the_core_alone(added):
    ours = [name for name in added[0]["modules"] if name.startswith("regard.")]
    assert ours
    assert [name for name in ours if name.split(".")[1] in UPPER] == []


def test_import_adds_little_to_that_of_torch(added):
    # Time on the processor, so that others who use the machine do not count; the best of three, so that the first one,
    # which may compile bytecode, does not either.
    assert min(run["seconds"] for run in added) <= 0.15


def module_name(file: Path) -> str:
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """The part a module belongs to: `regard.engine.tiles` -> "engine"."""
    return module.split(".")[1] if "." in module else ""


class Imports(ast.NodeVisitor):
    """What a file imports of regard's: (module, name or None, whether only when a function runs)."""

    def __init__(self, file: Path) -> None:
        self.found: list[tuple[str, str | None, bool]] = []
        self.package = module_name(file).split(".")
        if file.name != "__init__.py":
            self.package.pop()
        self.depth = 0
        self.visit(ast.parse(file.read_text(encoding="utf-8")))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        # What only a type checker imports is no arrow.
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, None, self.depth > 0) for alias in node.names if is_ours(alias.name)]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        if is_ours(module):
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if is_module(inner):
                    self.found.append((inner, None, self.depth > 0))
                else:
                    self.found.append((module, alias.name, self.depth > 0))


def is_ours(module: str) -> bool:
    return module == "regard" or module.startswith("regard.")


def is_module(name: str) -> bool:
    path = SRC.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


ARROWS = {file: Imports(file).found for file in FILES}


def in_part(*names: str) -> list[Path]:
    return [file for file in FILES if part(module_name(file)) in names]


def test_the_rules_have_something_to_hold():
    assert len(in_part("engine")) >= 2
    assert len(in_part(*UPPER)) >= 10
    assert sum(map(len, ARROWS.values())) >= 30


def test_engine_knows_nothing_of_ours_but_the_definition():
    for file in in_part("engine"):
        for module, _, _ in ARROWS[file]:
            assert part(module) in ("engine", "reference"), f"{file.relative_to(SRC)} imports {module}"


def test_reference_stands_alone():
    (file,) = in_part("reference")
    assert ARROWS[file] == []


def test_the_core_knows_what_stands_on_it_only_when_asked():
    for file in FILES:
        if file not in in_part(*UPPER):
            for module, _, when_called in ARROWS[file]:
                assert part(module) not in UPPER or when_called, f"{file.relative_to(SRC)} imports {module}"


def test_what_stands_on_the_core_uses_public_names_only():
    for file in in_part(*UPPER):
        here = part(module_name(file))
        for module, name, _ in ARROWS[file]:
            if part(module) == here:
                continue
            spelled = f"{file.relative_to(SRC)} imports {module}{'.' + name if name else ''}"
            assert module in PUBLIC or part(module) in UPPER, f"{spelled}: not a public module"
            words = module.split(".") + ([name] if name else [])
            private = [word for word in words if word.startswith("_") and not word.endswith("__")]
            assert not private, f"{spelled}: not a public name"
            if module == "regard" and name:
                import regard

                assert name in regard.__all__, f"{spelled}: not in regard.__all__"


def private_names(files: list[Path]) -> set[str]:
    """Names with an underscore that these files define, as a function, a method or an attribute of `self`."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_what_stands_on_the_core_reads_no_private_attribute_of_it():
    upper = in_part(*UPPER)
    of_core = private_names([file for file in FILES if file not in upper])
    assert of_core
    of_part = {name: private_names(in_part(name)) for name in UPPER}
    for file in upper:
        own = of_part[part(module_name(file))]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in of_core - own:
                raise AssertionError(f"{file.relative_to(SRC)}:{node.lineno} reads {ast.unparse(node)}")


def test_no_two_parts_need_each_other_to_be_imported():
    needs: dict[str, set[str]] = {}
    for file, found in ARROWS.items():
        here = part(module_name(file))
        reached = {part(module) for module, _, when_called in found if not when_called}
        needs.setdefault(here, set()).update(reached - {here, ""})
    done: set[str] = set()
    while len(done) < len(needs):
        free = {name for name in needs if name not in done and needs[name] <= done}
        assert free, f"a circle among {sorted(set(needs) - done)}"
        done |= free


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_a_file_fits_in_a_head(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 350


def test_every_public_name_is_there_and_documented():
    import regard

    for name in regard.__all__:
        if not name.startswith("__"):
            assert getattr(regard, name).__doc__, f"regard.{name} has no docstring"


def test_the_package_says_that_it_is_typed():
    assert (SRC / "regard" / "py.typed").exists()
