"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
        path: where to write; missing folders are made.
        content: the bytes to write.

    Returns:
        The path written.

    Raises:
        ValueError: if path is a folder, or something on the way to it is a file.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"path is a folder, {str(target)!r}; expected the name of a file to write in it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"path {str(target)!r} lies below a file; expected a folder before the name") from error
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes files for their owner alone; a page is to be shared as any other new file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _umask() -> int:
    # The only portable way to read the mask is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
