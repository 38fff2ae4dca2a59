"""Ask any attention implementation whether it is right: ``regard.check(my_attention)``.

The package can be called: ``regard.check(...)`` is :func:`regard.check.api.check`. Beside it: :func:`parametrize` for
pytest, :class:`Contract` to declare conventions, :class:`Sizes` for subjects that take few sizes, and the properties
themselves, each of which can be called alone.
"""

from __future__ import annotations

import sys

from regard.check import properties
from regard.check.adapt import CannotAdapt, adapt
from regard.check.api import check
from regard.check.contract import REGARD, Contract
from regard.check.marks import parametrize
from regard.check.package import Package
from regard.check.report import Report, Result
from regard.check.request import Sizes
from regard.check.violation import Unsupported, Violation

__all__ = [
    "REGARD",
    "CannotAdapt",
    "Contract",
    "Report",
    "Result",
    "Sizes",
    "Unsupported",
    "Violation",
    "adapt",
    "check",
    "parametrize",
    "properties",
]


sys.modules[__name__].__class__ = Package
