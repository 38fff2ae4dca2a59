from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.demo import Tokenizer, load

_, TOKENIZER = load()
SURROGATES = ("Cs",)

STRANGE = [
    "",
    " ",
    "\0",
    "a\0b",
    "\r\n\t\v\f",
    "def f(x):\n        return x\n\n\n",
    "naïve café",
    "日本語のテキスト",
    "👩‍👩‍👧 🙂",
    "\ufeffBOM",
    "e\u0301 \u202e rtl",
    "<|endoftext|> [UNK] </s>",
    "Ġ and Ċ as text",
    "\U0010ffff",
]


@pytest.mark.parametrize("text", STRANGE)
def test_strange_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(st.characters(exclude_categories=SURROGATES)))
def test_any_text_round_trips(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.encode_all([text]) == [ids]
    assert len(TOKENIZER.pieces(ids)) == len(ids)


@given(st.text(st.characters(max_codepoint=127)))
def test_pieces_of_ascii_are_the_text_itself(text: str) -> None:
    assert "".join(TOKENIZER.pieces(TOKENIZER.encode(text))) == text


def test_pieces_hold_real_spaces_and_newlines() -> None:
    pieces = TOKENIZER.pieces(TOKENIZER.encode("def f(self):\n    return self"))
    assert pieces[0] == "def"
    assert " self" in pieces
    assert "\n   " in pieces


def test_a_character_split_over_tokens_shows_its_bytes() -> None:
    assert TOKENIZER.pieces(TOKENIZER.encode("🙂")) == ["\\xf0", "\\x9f", "\\x99", "\\x82"]


def test_part_of_a_character_decodes_to_the_replacement_character() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a🙂")[:-1]) == "a\ufffd"


def test_code_is_compressed() -> None:
    text = "import os\n\n\nclass Thing:\n    def __init__(self, value):\n        self.value = value\n"
    assert len(TOKENIZER.encode(text)) < len(text) / 2


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D800 at index 2"):
        TOKENIZER.encode("ab\ud800")


def test_something_else_than_text_is_refused() -> None:
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        TOKENIZER.encode(b"ab")  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 10**6])
def test_an_unknown_id_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"id {index} is not in the vocabulary, ids are 0 to {len(TOKENIZER) - 1}"):
        TOKENIZER.decode([index])


def test_training_twice_gives_the_same_vocabulary() -> None:
    texts = ["the cat sat on the mat", "the dog sat on the log"]
    assert Tokenizer.train(texts, 280).to_json() == Tokenizer.train(texts, 280).to_json()


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size must be at least 256.*got 255"):
        Tokenizer.train(["text"], 255)


@pytest.mark.parametrize("content", ["", "not json", json.dumps({"model": {"type": "none"}})])
def test_a_damaged_file_is_refused(tmp_path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"is not a byte-level tokenizer.json"):
        Tokenizer.load(path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path) -> None:
    from tokenizers import Tokenizer as Other
    from tokenizers import models

    path = tmp_path / "tokenizer.json"
    Other(models.WordLevel({"日本": 0}, unk_token="日本")).save(str(path))
    with pytest.raises(ValueError, match=r"is not a byte-level tokenizer.json"):
        Tokenizer.load(path)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"tokenizers: pip install 'regard\[demo\]'"):
        Tokenizer.load(tmp_path)
