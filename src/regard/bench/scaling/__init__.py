"""How time and memory grow with the length, up to 131,072 tokens; what ``regard bench --scaling`` does."""

from __future__ import annotations

from regard.bench.scaling.curves import Scaling
from regard.bench.scaling.measure import run
from regard.bench.scaling.report import show, to_json, to_text

__all__ = ["Scaling", "run", "show", "to_json", "to_text"]
