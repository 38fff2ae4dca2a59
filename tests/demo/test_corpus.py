from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regard.demo.corpus import IGNORED, read_corpus, repeats, shuffled, standard_library, windows


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_folder_is_read_in_order_without_binary_and_hidden_files(tmp_path: Path) -> None:
    for name, data in {
        "b.txt": b"second",
        "a.py": b"first",
        "sub/c.md": "third: é".encode(),
        "sub/image.png": b"\x89PNG\0\0",
        "latin.txt": b"\xe9t\xe9",
        "empty.txt": b" \n",
        ".secret": b"hidden",
        ".git/config": b"hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    corpus = read_corpus(tmp_path)
    assert corpus.documents == ("first", "second", "third: é")
    assert corpus.skipped == 2
    assert corpus.name == tmp_path.name


def test_a_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes")
    corpus = read_corpus(tmp_path / "notes.txt")
    assert (corpus.name, corpus.documents) == ("notes.txt", ("some notes",))


def test_the_standard_library_is_described_without_a_path() -> None:
    corpus = standard_library()
    assert len(corpus.documents) > 100
    assert "/" not in corpus.name
    assert any("class TextWrapper" in text for text in corpus.documents)


def test_what_is_missing_empty_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing' does not exist; expected a text file or a folder"):
        read_corpus(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"is empty: no file in it holds text$"):
        read_corpus(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.txt' is empty"):
        read_corpus(tmp_path / "empty.txt")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(ValueError, match=r"image.png' is not UTF-8 text"):
        read_corpus(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"holds text \(1 binary files skipped\)"):
        read_corpus(tmp_path)


def test_shuffling_keeps_the_documents_and_depends_on_the_seed() -> None:
    documents = tuple(str(n) for n in range(20))
    assert sorted(shuffled(documents, _generator())) == sorted(documents)
    assert shuffled(documents, _generator()) == shuffled(documents, _generator())
    assert shuffled(documents, _generator()) != list(documents)


def test_windows_reach_every_token_and_target_the_next() -> None:
    inputs, targets = windows(torch.arange(12), 400, 5, _generator())
    assert inputs.shape == targets.shape == (400, 5)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert set(inputs[:, 0].tolist()) == set(range(7))
    assert targets.max() == 11


@pytest.mark.parametrize("length", [8, 33, 64])
def test_repeats_have_a_period_whose_first_time_does_not_count(length: int) -> None:
    inputs, targets = repeats(10_000, 50, length, _generator())
    periods = (targets == IGNORED).sum(1) + 1  # the first token is nobody's target
    assert periods.min() >= 4
    assert periods.max() <= length // 2
    assert length == 8 or len(periods.unique()) > 5
    for row, target, period in zip(inputs, targets, periods.tolist(), strict=True):
        assert torch.equal(row[period:], row[:-period])
        assert torch.equal(target[period - 1 : -1], row[period:])
        assert target[-1] == row[length % period]
        assert len(row[:period].unique()) == period
