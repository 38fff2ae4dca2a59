"""Loads what only looking needs, and says what to install where it is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(name: str) -> Any:
    """An optional module, imported where it is used.

    Args:
        name: the module's dotted name.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed; the message names the extra to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"regard.look needs {package}, which is not installed: pip install 'regard[look]'", name=package
        ) from error
