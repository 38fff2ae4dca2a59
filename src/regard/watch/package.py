"""What ``regard.watch`` is: a package that can be called."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

from regard.watch.api import watch
from regard.watch.errors import NoAttentionSeen, NoSuchRecord, UncompiledWarning
from regard.watch.record import Record
from regard.watch.seen import Seen

if TYPE_CHECKING:
    from regard.watch import answers, callbacks, log, log_history, log_journal

__all__ = ["Package"]


class Package(types.ModuleType):
    """The package, as type checkers and ``help()`` see it."""

    __call__ = staticmethod(watch)
    NoAttentionSeen = NoAttentionSeen
    NoSuchRecord = NoSuchRecord
    Record = Record
    Seen = Seen
    UncompiledWarning = UncompiledWarning
    if TYPE_CHECKING:
        AttentionAlarm = log_journal.AttentionAlarm
        History = log_history.History
        Log = log.Log
        TrainerCallback = staticmethod(callbacks.TrainerCallback)
        LightningCallback = staticmethod(callbacks.LightningCallback)
        sources = staticmethod(answers.sources)
        document_mass = staticmethod(answers.document_mass)
