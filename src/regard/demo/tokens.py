"""Text to token ids and back, by byte-pair encoding over UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers


def _require_tokenizers() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ImportError("regard.demo needs the package tokenizers: pip install 'regard[demo]'") from error


def _byte_of_symbol() -> dict[str, int]:
    # The file format spells each byte as one visible character: a printable Latin-1 character stands for itself, and
    # the others take the code points from 256 on, in order of their value.
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


class Tokenizer:
    """A byte-level byte-pair vocabulary: any text encodes, and decoding gives back exactly that text.

    Example:
        >>> tokenizer = Tokenizer.train(["def f(x): return x"], vocab_size=260)
        >>> tokenizer.decode(tokenizer.encode("naïve 🙂"))
        'naïve 🙂'

    Args:
        bpe: a tokenizers.Tokenizer with a byte-level BPE model and neither normaliser nor added tokens.
    """

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self._bpe = bpe
        byte_of = _byte_of_symbol()
        symbols = sorted(bpe.get_vocab().items(), key=lambda item: item[1])
        self._bytes = [bytes(byte_of[character] for character in symbol) for symbol, _ in symbols]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a vocabulary from text.

        Args:
            texts: the documents to learn from.
            vocab_size: most tokens to have, at least the 256 bytes; short text may give fewer.

        Returns:
            The tokenizer.

        Raises:
            ValueError: vocab_size is less than 256.
            ImportError: the package tokenizers is missing.
        """
        _require_tokenizers()
        from tokenizers import Tokenizer as BPE
        from tokenizers import models, pre_tokenizers, trainers

        if vocab_size < 256:
            raise ValueError(f"Tokenizer.train: vocab_size must be at least 256, one for each byte, got {vocab_size}")
        bpe = BPE(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False)
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json.

        Args:
            path: the file.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a byte-level tokenizer.
            ImportError: the package tokenizers is missing.
        """
        _require_tokenizers()
        from tokenizers import Tokenizer as BPE

        text = Path(path).read_text(encoding="utf-8")
        try:
            return cls(BPE.from_str(text))
        except Exception as error:  # the package raises bare Exception
            raise ValueError(f"Tokenizer.load: {path} is not a byte-level tokenizer.json: {error}") from error

    def to_json(self) -> str:
        """The content of a tokenizer.json.

        Example:
            >>> Tokenizer.train(["some text"], vocab_size=256).to_json()[0]
            '{'
        """
        return str(self._bpe.to_str())

    def __len__(self) -> int:
        return len(self._bytes)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} tokens)"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Args:
            text: any string without lone surrogates, which are not characters.

        Returns:
            ids, each less than len(tokenizer).

        Raises:
            TypeError: text is not a string.
            ValueError: text holds a lone surrogate.
        """
        _check_encodable(text)
        return list(self._bpe.encode(text).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts, on all cores.

        Args:
            texts: strings as for `encode`.

        Returns:
            One list of ids a text.

        Raises:
            TypeError: a text is not a string.
            ValueError: a text holds a lone surrogate.
        """
        for text in texts:
            _check_encodable(text)
        return [list(encoding.ids) for encoding in self._bpe.encode_batch(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are no UTF-8, as where a character was cut in two, become U+FFFD.

        Args:
            ids: token ids.

        Returns:
            The text.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return b"".join(self._bytes_of(ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""The text of each token by itself; a part of a character shows its bytes, as in '\xf0\x9f'.

        Args:
            ids: token ids.

        Returns:
            One string a token.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return [piece.decode("utf-8", errors="backslashreplace") for piece in self._bytes_of(ids)]

    def _bytes_of(self, ids: Iterable[int]) -> list[bytes]:
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < len(self):
                raise ValueError(f"Tokenizer: id {index} is not in the vocabulary, ids are 0 to {len(self) - 1}")
        return [self._bytes[index] for index in ids]


def _check_encodable(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"Tokenizer: text must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at index {error.start}"
        raise ValueError(f"Tokenizer: text holds a lone surrogate, {found}, which no encoding can represent") from error
