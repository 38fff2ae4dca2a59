from __future__ import annotations

from regard.look.readable import readable


def test_byte_level_symbols_are_the_bytes_they_stand_for() -> None:
    assert readable(["The", "\u0120caf", "\u00c3\u00a9", "\u010a", "\u010a\u010a", "\u0120"]) == [
        "The",
        " caf",
        "\u00e9",
        "\n",
        "\n\n",
        " ",
    ]


def test_part_of_a_character_shows_its_bytes() -> None:
    assert readable(["\u0120a", "\u00e6\u00bc"]) == [" a", "\\xe6\\xbc"]


def test_sentencepiece_marks_are_spaces() -> None:
    assert readable(["<s>", "\u2581The", "\u2581", "cat"]) == ["<s>", " The", " ", "cat"]


def test_what_has_no_marks_is_left_alone() -> None:
    for tokens in (
        ["caf\u00e9", " \u0120", "\u0120"],
        ["\u00c3\u00a9", "na\u00efve"],
        ["[CLS]", "##ing"],
        [],
        ["a\u2581b"],
    ):
        assert readable(tokens) == tokens


def test_a_token_that_the_spelling_does_not_explain_is_left_alone() -> None:
    assert readable(["\u0120the", "<|endoftext|>", "\u6f22", "\U0001f642"])[1:] == [
        "<|endoftext|>",
        "\u6f22",
        "\U0001f642",
    ]
