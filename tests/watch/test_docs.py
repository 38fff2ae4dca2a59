"""What docs/watch.md shows runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "watch.md"


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_the_page_runs(capsys):
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 4
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert "layers.2.self_attn" in capsys.readouterr().out
