"""Tokens as text, for every way in which tokenizers spell spaces."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from tests.look import tiny

from regard.look.pieces import pieces

t = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


def shown(tokenizer: Any, text: str) -> list[str]:
    found = tokenizer(text, return_offsets_mapping=tokenizer.is_fast)
    return pieces(tokenizer, found["input_ids"], text, found.get("offset_mapping"))


def test_bytes_are_text_again() -> None:
    found = shown(tiny.tokenizer("bytes"), "the cat\n\tsat!")
    assert found[0] == "<s>"
    assert "".join(found[1:]) == "the cat\n\tsat!"
    assert " cat" in found


def test_a_character_in_several_tokens_shows_its_bytes() -> None:
    found = shown(tiny.tokenizer("bytes"), "€")
    assert "".join(found[1:]) == r"\xe2\x82\xac"


def test_word_pieces_get_the_gaps_of_the_text() -> None:
    text = "The cat   sat\nreturn(x)"
    found = shown(tiny.tokenizer("words"), text)
    assert (found[0], found[-1]) == ("<s>", "</s>")
    assert "".join(found[1:-1]) == "the cat   sat\nreturn(x)"  # in its letters: small ones
    assert len(found) > 8
    assert not any("##" in piece for piece in found)


def test_word_pieces_that_are_one_word_join() -> None:
    assert "".join(shown(tiny.tokenizer("words"), "heap return")[1:-1]) == "heap return"


def test_a_metaspace_is_a_space() -> None:
    assert "".join(shown(tiny.tokenizer("pieces"), "the cat sat")) == " the cat sat</s>"


def test_what_a_tokenizer_with_spaces_leaves_out_stays_out() -> None:
    tokenizer = tiny.tokenizer("pieces")
    ids = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    middle = next(place for place, symbol in enumerate(tokenizer.convert_ids_to_tokens(ids)) if place and "▁" in symbol)
    offsets = [(0, 0) if place < middle else (5, 6) for place in range(len(ids))]
    assert "".join(pieces(tokenizer, ids, "the\n\ncat", offsets)) == " the cat"


def of_vocabulary(vocabulary: dict[str, int], **options: Any) -> Any:
    model = t.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", **options)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=t.Tokenizer(model), unk_token="<unk>")


def test_a_byte_that_no_piece_covers_is_that_byte() -> None:
    tokenizer = of_vocabulary({"<unk>": 0, "<0x0A>": 1, "<0xE2>": 2, "<0x41>": 3, "a": 4}, byte_fallback=True)
    assert pieces(tokenizer, [1, 2, 3, 4]) == ["\n", "\\xe2", "A", "a"]


def test_the_end_of_a_word_is_no_part_of_it() -> None:
    tokenizer = of_vocabulary({"<unk>": 0, "c": 1, "at</w>": 2}, end_of_word_suffix="</w>")
    assert pieces(tokenizer, [1, 2, 1, 2], "cat cat", [(0, 1), (1, 3), (4, 5), (5, 7)]) == ["c", "at", " c", "at"]


def test_a_token_that_was_added_is_itself() -> None:
    tokenizer = of_vocabulary({"<unk>": 0, "a": 1})
    tokenizer.add_tokens(["▁Ġ##x"])
    assert shown(tokenizer, "a▁Ġ##xa") == ["a", "▁Ġ##x", "a"]


def test_a_tokenizer_written_in_python_is_read_by_its_symbols() -> None:
    class Symbols:
        added_tokens_decoder: ClassVar[dict[int, Any]] = {}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [("▁the", "##at", "er</w>", "<0x0A>")[number] for number in ids]

    assert pieces(Symbols(), [0, 1, 2, 3]) == [" the", "at", "er", "\n"]
