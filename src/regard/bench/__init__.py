"""regard beside torch's own attention: compared first, then timed, interleaved in one run; what ``regard bench`` does.

The cases and the bars they are held to: :func:`listing`. A bar that is missed is shown as missed.
"""

from __future__ import annotations

from regard.bench.cases import listing
from regard.bench.report import show, to_json, to_text
from regard.bench.runner import Report, run

__all__ = ["Report", "listing", "run", "show", "to_json", "to_text"]
