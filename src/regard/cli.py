"""The `regard` command: what goes wrong becomes one line on stderr; the commands are in `regard.commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

NEEDED = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `regard` command and exit: 0 when it worked, 2 when what it was given cannot work, 130 after Ctrl-C.

    A missing file, an unknown name or a value out of range is printed as ``error: ...`` on stderr;
    ``regard --traceback ...`` shows where it came from.

    >>> main(["bench", "--list"])
    Traceback (most recent call last):
    ...
    SystemExit: 0

    Args:
        arguments: what follows the program's name; ``sys.argv[1:]`` if None.

    Raises:
        SystemExit: always, with the exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(arguments)
    except BaseException as error:
        if not _interrupted(error):
            raise
        # 128 + SIGINT, as a shell reports it; whoever pressed Ctrl-C knows why it ended.
        raise SystemExit(130) from None


def _run(arguments: list[str]) -> None:
    try:
        from regard.commands import app
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in NEEDED:
            raise
        _fail(f"the command line needs {missing.name}, which is not installed: pip install 'regard[look]'")
    try:
        app(arguments, prog_name="regard")
    except BrokenPipeError:
        # `regard look | head`: the reader has had enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, ImportError) as error:
        if "--traceback" in arguments or _interrupted(error):
            raise
        _fail(_one_line(error))


def _interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: a library that is interrupted while it is imported may fail in another way."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
