"""Where the text to look at comes from: a file, standard input, a string, or Python's own library."""

from __future__ import annotations

import codecs
import sys
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from sysconfig import get_paths

from regard.look.wording import one_line

#: A source file that every Python has and that is pleasant to read.
DEFAULT_MODULE = "heapq"

#: No more of a file is read: far beyond what any model takes.
READ_BYTES = 64 << 20


@dataclass(frozen=True)
class Source:
    """A text and where it came from, in words."""

    text: str
    name: str


def read_source(text: str | None, string: str | None) -> Source:
    """The text that the user named.

    Args:
        text: a path, "-" for standard input, or None.
        string: the text itself, or None.

    Returns:
        The text; with neither, a source file of the standard library.

    Raises:
        ValueError: if both are given, or there is no text to be had; the message says why and what to do.
    """
    if text is not None and string is not None:
        raise ValueError(f"both a file ({text!r}) and --string were given; expected one of them")
    if string is not None:
        _check_utf8(string)
        return _nonempty(Source(string, "the string given"), "--string", "a text of at least one character")
    if text is None:
        return _standard_library()
    if text == "-":
        if sys.stdin is None:  # as after <&- in a shell
            raise ValueError(
                "text is -, but standard input is closed; expected a text on it, as in: regard look - < FILE, "
                "or the path of a text file, or --string TEXT"
            )
        content = sys.stdin.buffer.read(READ_BYTES)
        return _nonempty(Source(_decoded(content, "standard input"), "standard input"), "standard input", "text")
    return _file(Path(text))


def _file(path: Path) -> Source:
    named = one_line(str(path))
    if path.is_dir():
        raise ValueError(f"text is a folder, {named}; expected a text file: name one of the files in it")
    try:
        with path.open("rb") as file:
            content = file.read(READ_BYTES)
    except FileNotFoundError as error:
        raise ValueError(
            f"text: there is no file {named}; expected the path of a text file, - for standard input, or --string TEXT"
        ) from error
    except OSError as error:
        raise ValueError(
            f"text: {named} cannot be read ({error.strerror}); expected a text file that you may read"
        ) from error
    return _nonempty(Source(_decoded(content, named), named), f"text {named}", "a file with text in it")


def _decoded(content: bytes, name: str) -> str:
    """UTF-8 text; a character that the end of what was read cuts in two is left out."""
    zero = content.find(b"\0")
    if zero >= 0:
        raise ValueError(
            f"text: {name} is not text (a NUL at byte {zero:,}); expected UTF-8, so convert UTF-16 with "
            "iconv -f UTF-16 -t UTF-8 first"
        )
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content, final=len(content) < READ_BYTES)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {name} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start:,}); expected UTF-8, so "
            "convert it first, for instance with iconv -f LATIN1 -t UTF-8"
        ) from error


def _check_utf8(string: str) -> None:
    """Python hands on a byte of an argument that is not UTF-8 as a lone surrogate, U+DC80 to U+DCFF."""
    try:
        string.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(string[error.start])
        found = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"the lone surrogate U+{code:04X}"
        raise ValueError(
            f"--string is not valid UTF-8 ({found} at character {error.start:,}); expected UTF-8, so convert it first, "
            "for instance with iconv -f LATIN1 -t UTF-8"
        ) from error


def _nonempty(source: Source, name: str, expected: str) -> Source:
    if not source.text.strip():
        raise ValueError(f"{name} {'holds nothing but blanks' if source.text else 'is empty'}; expected {expected}")
    return source


def _standard_library() -> Source:
    path = Path(get_paths()["stdlib"]) / f"{DEFAULT_MODULE}.py"
    if not path.is_file():
        raise ValueError(
            f"no text was named, and this Python has no source of {DEFAULT_MODULE}; expected a file, - or --string TEXT"
        )
    return Source(path.read_text(encoding="utf-8"), f"{path.name} of Python {python_version()}'s standard library")
