"""The words of a LLaMA tokenizer, and the ``tokenizer.json`` that the runtime reads.

The form written takes text as it is: ``raw(text)`` is the byte-pair encoding of the text with ``▁`` for every space.
LLaMA's tokenizers put one more space before each text they are given, and disagree on where else; here every such
space stands in the pieces of the prompt, see ``prompt.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

LONGEST_WORD = 256


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair vocabulary with byte fallback.

    Attributes:
        words: id of every word, special ones and single bytes included.
        merges: which two words become one, in the order of their ranks.
        unknown: the word for what has no word.
        special: words that no text turns into.
        added: ids of further words that the model's own text turns into as a whole.
    """

    words: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    unknown: str
    special: tuple[str, ...]
    added: Mapping[str, int] = field(default_factory=dict)

    @property
    def ids(self) -> dict[str, int]:
        """Returns the id of every word, added ones included."""
        return {**self.words, **self.added}

    def tokenizer(self, image: str, image_id: int) -> Any:
        """Returns the tokenizer, with one more special word for the image.

        Raises:
            Exception: the merges do not fit the words; of the Rust library's own kind.
        """
        special = [word for word in self.special if word != image]
        words = {**self.ids, image: image_id}
        tokenizer = Tokenizer(BPE(words, list(self.merges), unk_token=self.unknown, fuse_unk=True, byte_fallback=True))
        tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in [*special, image]])
        tokenizer.add_tokens([AddedToken(word, normalized=False) for word in self.added])
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return tokenizer
