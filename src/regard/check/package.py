"""What ``regard.check`` is: a package that can be called."""

from __future__ import annotations

import types

from regard.check import properties
from regard.check.api import check
from regard.check.contract import REGARD, Contract
from regard.check.marks import parametrize
from regard.check.request import Sizes

__all__ = ["Package"]


class Package(types.ModuleType):
    """The package, as type checkers and ``help()`` see it."""

    __call__ = staticmethod(check)
    parametrize = staticmethod(parametrize)
    Contract = Contract
    REGARD = REGARD
    Sizes = Sizes
    properties = properties
