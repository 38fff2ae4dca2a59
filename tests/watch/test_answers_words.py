"""Sources of an answer as a table, as a file, and what cannot be asked."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import pytest
import torch

import regard
from regard import masks
from regard.watch.answers import document_mass, sources
from regard.watch.answers_table import COLUMNS

TOKENS = ["the", " cat", " sat", "\n", "on", " the", " mat", "."]


@dataclass
class Record:
    name: str
    weights: object
    step: int = 0


def model(batch: int, heads: int, *, count: int = 3, length: int = 8, mask=None) -> list[regard.AttentionWeights]:
    drawn = (torch.randn(2, batch, heads, length, 6, dtype=torch.float64) for _ in range(count))
    return [regard.attention_weights(2 * q, k, mask) for q, k in drawn]


def test_it_reads_as_a_table():
    found = sources(model(1, 2), [6, 7], tokens=TOKENS, documents=[0] * 4 + [1] * 4, k=5)
    lines = repr(found).splitlines()
    assert lines[0].startswith("What queries 6, 7 attended to (rollout over 3 layers, residual 0.5): 5 of 8 tokens, 0.")
    assert lines[1].split() == ["rank", "position", "token", "share", "most", "by", "document"]
    for row, line in zip(found, lines[2:7], strict=True):
        for part in (str(row.rank), f"{row.share:.4f}", f"layer {row.layer}, head {row.head} ({row.carried:.4f})"):
            assert part in line
    assert lines[8].split() == ["document", "share", "tokens"]
    assert len(lines) == 11
    plain = repr(sources(model(1, 2, count=1), slice(2, 6), method="mean"))
    assert plain.startswith(
        "What queries 2 to 5 attended to (mean over 1 layer and all heads): 8 of 8 tokens, 1.000 of 1"
    )
    assert "document" not in plain
    assert "What query 3 attended" in repr(sources(model(1, 2), 3))


def test_hostile_tokens_stay_in_their_cell():
    shown = repr(sources(model(1, 1, count=1), 0, tokens=["\x1b[31m\n\u202e", *TOKENS[1:]]))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(shown.splitlines()) == 10


def test_many_documents_are_cut_in_words():
    found = sources(model(1, 1, length=30), 3, documents=range(30))
    assert len(found.documents) == 30
    assert repr(found).endswith("... and 10 more documents")


def test_rich_prints_it():
    console = pytest.importorskip("rich.console").Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    found = sources(model(1, 2), 7, tokens=["[red]", *TOKENS[1:]], documents=[0] * 4 + [1] * 4)
    console.print(found)
    printed = console.export_text()
    console.file.close()
    assert "[red]" in printed
    assert all(f"{row.share:.4f}" in printed for row in found)
    assert all(f"{part.share:.4f}" in printed for part in found.documents)


def test_a_file_of_the_rows(tmp_path):
    layers = [Record(f"layers.{n}", w) for n, w in enumerate(model(1, 2, mask=masks.causal()))]
    tokens = ['say "a, b"', *TOKENS[1:]]
    found = sources(layers, 0, tokens=tokens, documents=[5] * 8)
    path = found.to_csv(tmp_path / "sources.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["sources.csv"]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, line in zip(found, rows, strict=True):
        assert (int(line["position"]), line["token"], float(line["share"])) == (row.position, row.token, row.share)
        assert (line["layer"], line["document"]) == ("" if row.layer is None else str(row.layer), "5")
    with pytest.raises(ValueError, match="is a folder"):
        found.to_csv(tmp_path)


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDC80)])
def test_half_a_character_is_spelled_in_the_file(tmp_path, half):
    found = sources(model(1, 1), 0, tokens=[half, *TOKENS[1:]], k=8)
    with found.to_csv(tmp_path / "sources.csv").open(newline="", encoding="utf-8") as file:
        tokens = {int(line["position"]): line["token"] for line in csv.DictReader(file)}
    assert tokens == dict(enumerate([f"\\u{ord(half):x}", *TOKENS[1:]]))


def test_a_query_that_is_named_twice_counts_once():
    layers = model(1, 2)
    found = sources(layers, [1, 5, -3, 5])
    assert found.queries == (1, 5)
    assert torch.equal(found.shares, sources(layers, [1, 5]).shares)


L = model  # what the wrong calls below begin with


def nan_in(heads: int, head: int, row: int | None = None, dtype=torch.float64) -> regard.AttentionWeights:
    """Weights of which one head is NaN, or one row of it."""
    q, k = torch.randn(2, 1, heads, 8, 6, dtype=dtype)
    q[:, head, slice(None) if row is None else row] = torch.nan
    return regard.attention_weights(q, k)


def watched() -> regard.watch.Seen:
    layer = torch.nn.MultiheadAttention(4, 1)
    with regard.watch(layer) as seen:
        layer(*[torch.randn(3, 4)] * 3)
    return seen


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sources([], 0), ValueError, r"sources\(seen\): expected at least one layer, got none"),
        (lambda: sources(L(1, 1)[0], 0), TypeError, r"got AttentionWeights; for one layer pass \[weights\]"),
        (lambda: sources(None, 0), TypeError, r"sources\(seen\): expected what regard.watch has seen, .* got NoneType"),
        (lambda: sources([torch.eye(3)], 0), TypeError, r"layer 0 must be a record or regard.AttentionWeights, got T"),
        (
            lambda: sources([Record("a", L(1, 1)[0]), Record("b", L(2, 1)[0])], 0),
            ValueError,
            r"batch and lengths of layer 0 \(a\), \(1, 1, 8, 8\), got \(2, 1, 8, 8\) in layer 1 \(b\); pass the rec",
        ),
        (
            lambda: sources([Record("a", L(1, 1)[0], 0), Record("a", L(1, 1)[0], 4)], 0),
            ValueError,
            r"sources\(seen\): the records are of 2 forwards, steps 0 to 4; pass those of one, .*record.step == 0",
        ),
        (lambda: sources(L(1, 1), 8), ValueError, r"sources\(answer\): 8 is none of the 8 queries; expected -8 to 7"),
        (lambda: sources(L(1, 1), []), ValueError, r"sources\(answer\): \[\] names none of the 8 queries"),
        (lambda: sources(L(1, 1), slice(3, 3)), ValueError, r"sources\(answer\): slice\(3, 3, None\) names none"),
        (lambda: sources(L(1, 1), True), TypeError, r"sources\(answer\): expected an index, .*, got bool"),
        (lambda: sources(L(1, 1), 1.5), TypeError, r"sources\(answer\): expected an index, .*, got float32"),
        (lambda: sources(L(1, 1), "cat"), TypeError, r"sources\(answer\): expected an index, .*, got str 'cat'"),
        (lambda: sources(L(1, 1), [True]), ValueError, r"expected 8 booleans, one for each of the queries"),
        (lambda: sources(L(1, 1), 0, sources=-9), ValueError, r"sources\(sources\): -9 is none of the 8 keys"),
        (
            lambda: sources(L(1, 1), 0, tokens=["a"]),
            ValueError,
            r"sources\(tokens\): expected one text a key, 8, got 1",
        ),
        (
            lambda: sources(L(1, 1), 0, documents=[1]),
            ValueError,
            r"sources\(documents\): .*\(S,\) = \(8,\), got shape \(1",
        ),
        (
            lambda: sources(L(1, 1), 0, documents=[0.5] * 8),
            TypeError,
            r"sources\(documents\): expected integers, .*float",
        ),
        (lambda: sources(L(1, 1), 0, k=0), ValueError, r"sources\(k\): expected at least 1, got 0"),
        (lambda: sources(L(1, 1), 0, k=2.0), TypeError, r"sources\(k\): expected an integer, got float"),
        (
            lambda: sources(L(1, 1), 0, method="flow"),
            ValueError,
            r"sources\(method\): expected 'rollout' or 'mean', got 'f",
        ),
        (
            lambda: sources(L(1, 1), 0, residual=2),
            ValueError,
            r"sources\(residual\): expected a number in \[0, 1\], got 2",
        ),
        (lambda: sources(L(1, 1), 0, residual="1"), TypeError, r"sources\(residual\): .* in \[0, 1\], got str"),
        (
            lambda: sources(L(1, 1), 0, residual=0.5, method="mean"),
            ValueError,
            r"sources\(residual\): the mean has none, got 0.5; leave it out, or method='rollout'",
        ),
        (
            lambda: sources(L(1, 1), 0, tokens=["a", 7, *"bcdefg"]),
            TypeError,
            r"sources\(tokens\): expected texts, got int 7 for key 1",
        ),
        (
            lambda: sources([Record("a.0", L(1, 2)[0]), Record("a.1", nan_in(2, 1))], 0, batch=0),
            ValueError,
            r"sources\(seen\): the weights of layer 1 \(a.1\) are NaN, first in head 1, query 0; its query or key has",
        ),
        (
            lambda: sources([nan_in(1, 0, dtype=torch.float32)], 0, residual=0.0),
            ValueError,
            r"the weights of layer 0 are NaN, first in head 0, query 0",
        ),
        (lambda: sources([nan_in(1, 0)], 0, method="mean"), ValueError, r"the weights of layer 0 are NaN, first in he"),
        (
            lambda: sources([L(1, 1)[0], nan_in(1, 0, row=7)], 0, sources=0),
            ValueError,
            r"the weights of layer 1 are NaN, first in head 0, query 7",
        ),
        (lambda: sources(L(2, 1), 0), ValueError, r"sources\(batch\): there are 2 sequences; say which: batch=0"),
        (lambda: sources(L(2, 1), 0, batch=2), ValueError, r"sources\(batch\): 2 is none of the 2 sequences"),
        (lambda: sources(L(2, 1), 0, batch=True), TypeError, r"sources\(batch\): expected an integer, got bool"),
        (
            lambda: sources(L(1, 1, mask=masks.padding(torch.tensor([0]))), 0, residual=0.0),
            ValueError,
            r"sources\(answer\): these queries may attend to nothing",
        ),
        (
            lambda: document_mass(torch.eye(3), [0] * 3),
            TypeError,
            r"document_mass\(weights\): expected regard.Att.*Tensor",
        ),
        (
            lambda: document_mass(watched()[0], [0]),
            TypeError,
            r"document_mass\(weights\): .*got Record; pass its weights, record.w",
        ),
        (
            lambda: document_mass(L(2, 1)[0], [0] * 3),
            ValueError,
            r"document_mass\(ids\): expected one id a key, \(S,\) = \(8,\) or \(2, 8\), got shape \(3,\)",
        ),
        (lambda: document_mass(L(2, 1)[0], "x" * 8), TypeError, r"document_mass\(ids\): expected integers, one"),
    ],
)
def test_what_cannot_be_asked_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
