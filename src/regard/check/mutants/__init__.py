"""Wrong attentions with names: what a checker must catch, and what it compares a failing subject with."""

from __future__ import annotations

from regard.check.mutants import behaviour, dropping, layout, masking, modules, precision, scores
from regard.check.mutants.mutant import MUTANTS, Mutant, as_function, as_module

__all__ = [
    "MUTANTS",
    "Mutant",
    "as_function",
    "as_module",
    "behaviour",
    "dropping",
    "layout",
    "masking",
    "modules",
    "precision",
    "scores",
]
