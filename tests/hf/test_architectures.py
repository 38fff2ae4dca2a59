"""The table of docs/hf.md: it says what the record says, and the record is what is found again."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tests.hf.architectures import REPRESENTATIVE
from tests.hf.proofs import Finding, computed, conclude, examine, registered, true_calls
from tests.hf.tiny_models import build, inputs_for

DOCS = Path(__file__).parents[2] / "docs"
AGAIN = "run: python docs/hf_table.py"
RECORD = json.loads((DOCS / "hf_architectures.json").read_text(encoding="utf-8"))
EVERY = RECORD["architectures"]
TRIED = sorted(name for name, one in EVERY.items() if "untried" not in one)
# As the record was made with; of another version architectures come and go.
pytestmark = pytest.mark.skipif(
    f"transformers {__import__('transformers').__version__}," not in RECORD["versions"], reason="another transformers"
)


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("hf_table", DOCS / "hf_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_record(table):
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.read().filled(text) == text, "run: python docs/hf_table.py --page"


def test_enough_is_proven_and_all_of_it_compares_something(table):
    for name in TRIED:
        for way in table.WAYS:
            one = EVERY[name][way]
            if not one["reason"]:
                assert one["calls"] > 0, name
                assert one["compared"] > 0, name
                assert one["spread"] >= 0.05, name
                assert one["error"] <= 1e-5, name
                assert one["output_error"] <= 1e-4, name
    assert sum(any(table.entire(EVERY[name][way]) for way in table.WAYS) for name in TRIED) >= 150


def test_what_is_proven_of_nothing_is_not_counted(table):
    nothing = Finding().record()
    assert not nothing["reason"]
    assert not table.proven(nothing)
    with pytest.raises(Exception, match="no attention call was compared"):
        conclude(Finding())
    with pytest.raises(Exception, match="nothing is shown"):
        conclude(Finding(calls=2, compared=10, spread=1e-3))


def test_the_representatives_cover_what_attention_does_differently():
    held = {trait for name in REPRESENTATIVE for trait in EVERY[name]["traits"]}
    assert held >= {"grouped heads", "windows", "chunks", "softcap", "sinks", "experts", "relative positions"}


def hold(name: str) -> None:
    found = {way: finding.record() for way, finding in examine(name).items()}
    for way, finding in found.items():
        known = EVERY[name][way]
        assert (finding["reason"] == "") == (known["reason"] == ""), f"{name}, {way}: {finding['reason']}; {AGAIN}"
        for count in ("calls", "by_hand", "in_outputs"):
            assert finding[count] == known[count], f"{name}, {way}: {count}; {AGAIN}"


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_representative(name):
    assert EVERY[name]["register"]["reason"] == ""
    hold(name)


def test_blocks_of_keys_that_an_indexer_chose():
    # Its indexer reads the rows of padding, which eager and sdpa fill differently: held without padding.
    name = "minimax_m3_vl_text"
    eager, finding = build(name, "eager"), Finding()
    tiny = inputs_for(name, eager, None)
    truth, output = true_calls(eager, tiny)
    sparse = truth["layers.1.self_attn", 0]
    assert (sparse == 0).sum() > (torch.ones_like(sparse).tril() == 0).sum()  # blocks were left out
    computed(dataclasses.replace(tiny, model=registered(name)), truth, output, finding)
    conclude(finding)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in TRIED if EVERY[name].get("seconds", 0) < 10])
def test_every_architecture(name):
    hold(name)
