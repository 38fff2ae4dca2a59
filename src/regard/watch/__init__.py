"""See the attention of a model that knows nothing of regard: ``with regard.watch(model) as seen: model(x)``.

The package can be called: ``regard.watch(...)`` is :func:`regard.watch.api.watch`. Beside it: :class:`Seen`, what a
watch gives, :class:`Record`, one call of attention in it, and :class:`NoAttentionSeen`, raised where there was none.
On top of them, imported when they are asked for: :func:`sources` and :func:`document_mass`, questions over all layers;
:class:`Log`, :func:`TrainerCallback` and :func:`LightningCallback`, for training.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from regard.watch.api import watch
from regard.watch.errors import NoAttentionSeen, NoSuchRecord, UncompiledWarning
from regard.watch.package import Package
from regard.watch.record import Record
from regard.watch.seen import Seen

if TYPE_CHECKING:
    from regard.watch.answers import document_mass, sources
    from regard.watch.callbacks import LightningCallback, TrainerCallback
    from regard.watch.log import Log
    from regard.watch.log_history import History
    from regard.watch.log_journal import AttentionAlarm

__all__ = [
    "AttentionAlarm",
    "History",
    "LightningCallback",
    "Log",
    "NoAttentionSeen",
    "NoSuchRecord",
    "Record",
    "Seen",
    "TrainerCallback",
    "UncompiledWarning",
    "document_mass",
    "sources",
    "watch",
]

# What stands on a watch, by the module that it is in.
_LATER = {
    "AttentionAlarm": "log_journal",
    "History": "log_history",
    "LightningCallback": "callbacks",
    "Log": "log",
    "TrainerCallback": "callbacks",
    "document_mass": "answers",
    "sources": "answers",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(f"regard.watch.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = Package
