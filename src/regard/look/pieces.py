"""Tokens of any Hugging Face tokenizer as the text they stand for, byte-pair and word-piece markers resolved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

__all__ = ["pieces"]

# SentencePiece writes a space as this, and a byte that no piece covers as <0x0A>.
METASPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def pieces(
    tokenizer: Any, ids: Sequence[int], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> list[str]:
    """The text of each token by itself, its markers of spaces as spaces; part of a character shows its bytes.

    Pieces of a vocabulary without spaces (BERT's) get what stands between them in the text, so that the pieces together
    can be read.

    Args:
        tokenizer: a tokenizer of transformers.
        ids: the tokens.
        text: what they were made of.
        offsets: where in the text each token begins and ends, (0, 0) for one that is not of it.

    Returns:
        One string a token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelling = " ".join(repr(getattr(backend, part, None)) for part in ("normalizer", "pre_tokenizer", "decoder"))
    bytewise = "ByteLevel" in spelling
    model = getattr(backend, "model", None)
    prefix = getattr(model, "continuing_subword_prefix", None) or ("##" if backend is None else "")
    suffix = getattr(model, "end_of_word_suffix", None) or ("</w>" if backend is None else "")
    spaced = bytewise or METASPACE in spelling
    literal = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    found = []
    end = 0
    for place, (number, symbol) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True)):
        gap = ""
        if offsets is not None and not spaced:
            start, stop = offsets[place]
            gap = text[end:start]
            end = max(end, stop)
        if number in literal:
            found.append(gap + literal[number])
        elif bytewise:
            found.append(from_bytes(symbol))
        else:
            found.append(gap + _from_symbol(symbol, prefix, suffix))
    return found


def _from_symbol(symbol: str, prefix: str, suffix: str) -> str:
    """The text of a word piece or a SentencePiece."""
    byte = BYTE.fullmatch(symbol)
    if byte:
        return bytes([int(byte[1], 16)]).decode("utf-8", errors="backslashreplace")
    if prefix:
        symbol = symbol.removeprefix(prefix)
    if suffix:
        symbol = symbol.removesuffix(suffix)
    return symbol.replace(METASPACE, " ")


def from_bytes(symbol: str) -> str:
    """The text of a byte-level token, in which each byte is spelled as one visible character."""
    byte_of = _byte_of_character()
    if not all(character in byte_of for character in symbol):
        return symbol
    return bytes(byte_of[character] for character in symbol).decode("utf-8", errors="backslashreplace")


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    # GPT-2's: a printable Latin-1 character stands for its own byte, the others follow from 256 on.
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
