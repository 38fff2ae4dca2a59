"""Writes a file whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from regard.look.wording import one_line


def obstacle(path: str | os.PathLike[str]) -> str | None:
    """Why no file can be written at path, in words, or None; nothing is made, and missing folders are none.

    Example:
        >>> import tempfile
        >>> from regard.look.files import obstacle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     obstacle(folder + "/new/page.html"), obstacle(folder).removeprefix(folder)
        (None, ' is a folder')
    """
    if not os.fspath(path):
        return "an empty text is no name"
    if "\0" in str(path):
        return "no name holds a NUL character"
    try:
        Path(path).stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"no file can have that name ({error.strerror})"
    if Path(path).is_dir():
        return f"{one_line(str(path))} is a folder"
    if _is_device(path):
        return None
    parents = Path(os.path.realpath(path)).parents
    standing = next(folder for folder in parents if folder.exists())
    if not standing.is_dir():
        return f"{one_line(str(standing))} is a file"
    try:
        # What the permissions say is not enough: not for root, not on a disk that is mounted to be read, not in /proc.
        with tempfile.TemporaryFile(dir=standing):
            return None
    except OSError as error:
        return f"{one_line(str(standing))} may not be written to ({error.strerror})"


def check_target(path: str | os.PathLike[str], name: str = "path") -> None:
    """A file can be written at path.

    Args:
        path: where to write.
        name: what the argument is called that named it.

    Raises:
        TypeError: if path is no text and no path.
        ValueError: if there is an obstacle.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} is {path!r}; expected the name of a file, a text or a path")
    if found := obstacle(path):
        raise ValueError(
            f"{name} is {one_line(str(path))}, but {found}; expected the name of a file in a folder that may be "
            "written to"
        )


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Puts content at path in one step: a reader sees the old file or the new one, never a half.

    The bytes go to a temporary file in the same folder, which then takes the name. Whatever interrupts the writing,
    Ctrl-C included, removes the temporary file and leaves what was at path untouched.

    Example:
        >>> import tempfile
        >>> from regard.look.files import write_atomically
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(folder + "/page.html", b"<!doctype html>").read_bytes()
        b'<!doctype html>'

    Args:
        path: where to write; missing folders are made, and a link stays one. A device or a pipe is written to as it is.
        content: the bytes to write.

    Returns:
        The path written.

    Raises:
        ValueError: if path is a folder, something on the way to it is a file, or its folder may not be written to.
    """
    check_target(path)
    if _is_device(path):
        Path(path).write_bytes(content)
        return Path(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not the whole name: with what is added to it, it may be longer than a name can be.
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes files for their owner alone; a page is to be shared as any other new file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(path)


def _is_device(path: str | os.PathLike[str]) -> bool:
    """A pipe or a device, such as /dev/stdout: a file in its place would take it away from everyone."""
    return Path(path).exists() and not Path(path).is_file()


def _umask() -> int:
    # The only portable way to read the mask is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
