"""A user's code as an object: ``path/file.py:name``, ``path/notebook.ipynb:name`` or ``package.module:name``."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import linecache
import re
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType

from regard.check.child import is_out_of_memory
from regard.look.wording import one_line

__all__ = ["check_file", "importable", "load_module", "load_object"]

#: Source text and the name it has in a traceback.
Source = tuple[str | bytes, str]

FILE = re.compile(r"(?P<path>.+\.(?:py|ipynb))(?::(?P<name>.*))?", re.IGNORECASE | re.DOTALL)

#: At most so many names are listed in an error.
LISTED = 12

#: A line of a notebook that is no Python: a magic, a command for the shell, a question.
MAGIC = re.compile(r"(?P<indent>\s*)(?:[%!?]|[\w, ]+=\s*[%!]|[\w.]+\?{1,2}\s*$)")

#: Cell magics under which the cell is Python that runs once in the notebook's own names.
TRANSPARENT = ("%%time", "%%capture")


def load_object(spec: str) -> object:
    """The object that a specification names.

    >>> load_object("torch.nn.functional:softmax").__name__
    'softmax'
    >>> load_object("torch.nn:Linear.forward").__qualname__
    'Linear.forward'

    Args:
        spec: ``path/file.py:name``, ``path/notebook.ipynb:name`` or ``package.module:name``. The name may have dots:
            ``file.py:Class.method``.

    Returns:
        The object, as it is in its module.

    Raises:
        ValueError: a specification without a name, a name that is not there, no such file, a file that is no notebook.
        ImportError: code that does not run when it is imported; the message says which line of it.
    """
    file = FILE.fullmatch(spec)
    if file is not None:
        place, name = file["path"], file["name"] or ""
        module = load_module(place)
    else:
        place, _, name = spec.partition(":")
        module = _installed(place)
    if not name:
        raise ValueError(f"{spec!r} names no object; expected {place}:NAME. {_callables(module)}")
    found: object = module
    for index, part in enumerate(name.split(".")):
        if not hasattr(found, part):
            raise ValueError(_no_such_name(place, name.split(".")[: index + 1], found, module))
        found = getattr(found, part)
    return found


def load_module(path: str | Path) -> ModuleType:
    """A .py file or the code cells of a notebook, run as a module.

    It does not run as ``__main__``: what stands under ``if __name__ == "__main__"`` does not happen. The file's folder
    can be imported from while it runs. Magics of a notebook are left out; tracebacks point to ``nb.ipynb, cell 3``,
    where cells of code are counted from 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "mine.py").write_text("answer = 42")
    ...     load_module(folder + "/mine.py").answer
    42

    Args:
        path: the file.

    Returns:
        A new module, in ``sys.modules`` under a name of its own.

    Raises:
        ValueError: no such file, another kind of file, a notebook that is not valid or has no code.
        ImportError: code that does not compile, raises, or calls ``sys.exit()`` while it runs.
        MemoryError: code that wants more memory than there is.
        OSError: a file that cannot be read.
    """
    file = Path(path)
    check_file(file)
    is_notebook = file.suffix.lower() == ".ipynb"
    sources: list[Source] = _cells(file) if is_notebook else [(file.read_bytes(), str(file.resolve()))]
    identity = zlib.crc32(str(file.resolve()).encode("utf-8", "surrogateescape"))
    module = ModuleType(f"_loaded_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}_{identity:08x}")
    if not is_notebook:
        module.__file__ = sources[0][1]
    # Dataclasses, pickle and typing look a class's module up by its name.
    sys.modules[module.__name__] = module
    try:
        with importable(file.parent):
            for code in _compiled(sources):
                exec(code, module.__dict__)  # noqa: S102 (running the user's code is what this is for)
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, KeyboardInterrupt) or is_out_of_memory(error):
            raise
        raise ImportError(f"{_shown(file)} does not import: {_told(error, [name for _, name in sources])}") from error
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within it, modules of the folder can be imported, as from a script that lies there; no bytecode is written.

    Args:
        folder: the folder.
    """
    entry, written = str(folder.resolve()), sys.dont_write_bytecode
    sys.path.insert(0, entry)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        if entry in sys.path:
            sys.path.remove(entry)


def check_file(file: Path) -> None:
    """There is a .py or .ipynb file at this path.

    Args:
        file: the path.

    Raises:
        ValueError: if there is none; the message names files beside it that are spelled alike.
    """
    if file.is_dir():
        raise ValueError(f"{_shown(file)} is a folder; expected a .py or .ipynb file")
    if not file.exists():
        if not file.parent.is_dir():
            raise ValueError(f"there is no {_shown(file)}, nor a folder {_shown(file.parent)}")
        beside = sorted(other.name for other in file.parent.iterdir() if other.suffix.lower() in (".py", ".ipynb"))
        near = difflib.get_close_matches(file.name, beside, n=3)
        hint = f"; did you mean {' or '.join(map(one_line, near))}?" if near else ""
        raise ValueError(f"there is no {_shown(file)}{hint}")
    if file.suffix.lower() not in (".py", ".ipynb"):
        raise ValueError(f"{_shown(file)} is neither a .py nor an .ipynb file")


def _cells(file: Path) -> list[Source]:
    """The code cells of a notebook that have Python in them."""
    try:
        notebook = json.loads(file.read_bytes())
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        texts = ["".join(cell["source"]) for cell in cells]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_shown(file)} is not a notebook: it is not valid JSON ({error})") from None
    except (KeyError, TypeError):
        raise ValueError(f"{_shown(file)} is not a notebook of nbformat 4: it has no list of cells") from None
    if not any(text.strip() for text in texts):
        raise ValueError(f"{_shown(file)} has no code: {len(texts)} code cells, all of them empty")
    return [(_python(text), f"{file.name}, cell {number}") for number, text in enumerate(texts, 1)]


def _python(cell: str) -> str:
    """The cell with `pass` where IPython has a syntax of its own, on the same lines."""
    first = cell.lstrip().split(maxsplit=1)[:1]
    lines = cell.split("\n")
    if first and first[0].startswith("%%"):
        if first[0] not in TRANSPARENT:
            return ""
        lines[next(number for number, line in enumerate(lines) if line.strip())] = ""
    # "%" begins a line of Python, too, within brackets: only where it is an error it is a magic.
    while (error := _syntax_error("\n".join(lines))) and 0 < (error.lineno or 0) <= len(lines):
        number = (error.lineno or 0) - 1
        magic = MAGIC.match(lines[number])
        if magic is None:
            break
        lines[number] = magic["indent"] + "pass"
    return "\n".join(lines)


def _syntax_error(text: str) -> SyntaxError | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


def _compiled(sources: list[Source]) -> Iterator[CodeType]:
    flags = 0
    for text, name in sources:
        if isinstance(text, str):
            # There is no file of this name for a traceback to show a line of.
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            code = compile(text, name, "exec", flags, dont_inherit=True)
        # `from __future__ import annotations` in one cell holds for those after it, as in Jupyter.
        flags |= code.co_flags & annotations.compiler_flag
        yield code


def _told(error: BaseException, names: list[str]) -> str:
    """What went wrong and in which line of the user's code, in one line."""
    place, line = names[0], 0
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in names:
            place, line = frame.filename, frame.lineno or 0
    if isinstance(error, SyntaxError) and error.filename in names:
        place, line = error.filename, error.lineno or 0
    cell = place.rpartition(", ")[2] + ", " if place.rpartition(", ")[2].startswith("cell ") else ""
    where = f"{cell}line {line}: " if line else ""
    if isinstance(error, SystemExit):
        return f"{where}it calls sys.exit()"
    text = error.msg if isinstance(error, SyntaxError) and error.filename in names else str(error)
    return where + one_line(": ".join(filter(None, (type(error).__name__, " ".join(text.split())))))


def _installed(name: str) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"{name!r} is no module; expected path/file.py:NAME, path/notebook.ipynb:NAME or package.module:NAME"
        )
    try:
        with importable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent, _, last = name.rpartition(".")
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise ImportError(f"{name} does not import: {error}") from error
        hint = f"; an object in {parent} is written {parent}:{last}" if error.name == name and parent else ""
        raise ImportError(f"there is no module {error.name}{hint}") from error
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise ImportError(f"{name} does not import: {_told(error, [''])}") from error


def _no_such_name(place: str, names: list[str], found: object, module: ModuleType) -> str:
    whole, missing = ".".join(names), names[-1]
    public = [name for name in dir(found) if missing.startswith("_") or not name.startswith("_")]
    near = difflib.get_close_matches(missing, public, n=3, cutoff=0.7)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    owner = module if len(names) == 1 else found
    return f"there is no {one_line(whole)} in {one_line(place)}{hint} {_callables(owner)}"


def _callables(owner: object) -> str:
    """What can be called in a module or class: its own if it has any, in the order of their definition."""
    names = [name for name in vars(owner) if not name.startswith("_")] if hasattr(owner, "__dict__") else []
    names = [name for name in names if callable(getattr(owner, name, None))]
    home = str(getattr(owner, "__name__", ""))
    own = [name for name in names if f"{getattr(getattr(owner, name), '__module__', '')}.".startswith(home + ".")]
    chosen = own or names
    if not chosen:
        return "It has nothing that can be called."
    more = f" and {len(chosen) - LISTED} more" if len(chosen) > LISTED else ""
    return f"It has {', '.join(chosen[:LISTED])}{more}."


def _shown(path: Path) -> str:
    return one_line(str(path))
