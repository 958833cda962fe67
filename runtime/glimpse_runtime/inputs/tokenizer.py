"""The model's tokenizer, where text from a user can never turn into a special token."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.decoders import DecodeStream

from glimpse_runtime.errors import BundleFormatError


class Tokenizer:
    """Encodes template pieces and user text; decodes answers as a stream."""

    def __init__(self, path: Path) -> None:
        """Loads a ``tokenizer.json``."""
        try:
            self._tokenizer = HFTokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises plain Exception
            raise BundleFormatError(f"cannot read {path}: {error}; export the model again") from None
        self._tokenizer.encode_special_tokens = True
        # A file saved after training may ask for both; a prompt is taken whole and as it is.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token.content: index for index, token in added.items() if token.special}
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(names) + ")" if names else r"(?!)()")

    def encode(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Encodes a prompt.

        Args:
            pieces: (text, trusted) in order. In trusted pieces, those of the template, special tokens count; in
                others every character is text. Text that touches across pieces is encoded together, so the ids
                are those the whole prompt has in the reference's tokenizer.

        Returns:
            The token ids.
        """
        ids: list[int] = []
        text: list[str] = []
        for piece, trusted in pieces:
            for part in self._split.split(piece) if trusted else [piece]:
                if trusted and part in self._special:
                    ids += self._encode_text("".join(text))
                    ids.append(self._special[part])
                    text.clear()
                elif part:
                    text.append(part)
        return ids + self._encode_text("".join(text))

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            return []
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> "TextStream":
        """Returns a decoder that takes one id at a time."""
        return TextStream(self._tokenizer)


class TextStream:
    """Turns ids into pieces of valid text: a character split over tokens is held back until it is whole."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        """Starts an empty stream."""
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """Returns the text that ``token`` completes; empty when nothing is complete yet."""
        return self._stream.step(self._tokenizer, token) or ""
