"""What ``regard.look`` is: a package that can be called."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

from regard.look.api import encoding, look, mask, page
from regard.look.heads import HeadScores, HeadTable, head_table
from regard.look.measure import Measured, measure
from regard.look.opened import Page

if TYPE_CHECKING:
    from regard.look import figures, serve

__all__ = ["Package"]


class Package(types.ModuleType):
    """The package, as type checkers and ``help()`` see it."""

    __call__ = staticmethod(look)
    HeadScores = HeadScores
    HeadTable = HeadTable
    Measured = Measured
    Page = Page
    encoding = staticmethod(encoding)
    head_table = staticmethod(head_table)
    mask = staticmethod(mask)
    measure = staticmethod(measure)
    page = staticmethod(page)
    if TYPE_CHECKING:
        Server = serve.Server
        figures = figures
