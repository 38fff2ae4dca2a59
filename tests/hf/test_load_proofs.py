"""Every known class, in a tiny model of its own: the loaded layer computes what the original computes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from tests.hf.load_cases import CASES
from tests.hf.load_proofs import MOST, examined

from regard.hf.families import CLASSES

DOCS = Path(__file__).parents[2] / "docs"
RECORD = json.loads((DOCS / "hf_layers.json").read_text(encoding="utf-8"))
AGAIN = "run: python docs/hf_layers.py"
# Of another version classes come and go, and cases may need other fields.
same_transformers = pytest.mark.skipif(
    f"transformers {transformers.__version__}," not in RECORD["versions"], reason="another transformers"
)


@pytest.fixture(scope="module")
def table() -> Any:
    spec = importlib.util.spec_from_file_location("hf_layers", DOCS / "hf_layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@same_transformers
@pytest.mark.parametrize("case", CASES)
def test_a_loaded_layer_computes_what_the_original_computes(case):
    found = list(examined(case))
    for each in found:
        assert "forward, gradients of parameters" in each.errors
        worse = {what: error for what, error in each.errors.items() if not error <= MOST}
        assert not worse, f"{each.kind} at {each.name}"
    known = RECORD["cases"][case]
    assert sorted({each.kind for each in found}) == known["classes"], AGAIN
    assert (len(found), sorted({what for each in found for what in each.errors})) == (
        known["layers"],
        sorted(known["errors"]),
    ), AGAIN
    assert sorted({trait for each in found for trait in each.traits}) == known["has"], AGAIN


def test_every_class_is_in_the_record_and_no_other():
    assert RECORD["cases"].keys() == CASES.keys(), AGAIN
    proven = {name for case in RECORD["cases"].values() for name in case["classes"]}
    assert proven == {name.rpartition(".")[2] for name in CLASSES}, AGAIN
    assert len(proven) == len(CLASSES)


def test_the_record_holds_what_the_page_promises():
    for case in RECORD["cases"].values():
        assert all(error <= MOST for error in case["errors"].values())


def test_the_page_is_that_of_the_record(table):
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.read().filled(text) == text, "run: python docs/hf_layers.py --page"


def test_masks_norms_and_positions_of_every_kind_are_among_the_cases():
    has = {trait for case in RECORD["cases"].values() for trait in case["has"]}
    assert has >= {"causal", "window", "window on both sides", "relative bias", "latents", "context", "grouped heads"}
    assert has >= {"halves rotary", "interleaved rotary", "partly halves rotary", "scale", "softcap", "sinks", "gate"}
    assert has >= {"RMSNorm of each head", "OffsetRMSNorm of each head", "LayerNorm of each head"}
    assert has >= {"RMSNorm of all heads together", "RMSNorm of each head after rotating"}
    assert has >= {"HeadwiseLayerNorm of each head", "halves rotary (YaRN)"}


def test_the_example_of_the_page_runs(table):
    (code,) = re.findall(r"```python\n(.*?)```", table.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(table.PAGE), "exec"), {})
