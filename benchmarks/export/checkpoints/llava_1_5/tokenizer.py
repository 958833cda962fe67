"""A sentencepiece model of LLaMA's kind whose merges are drawn at random."""

from benchmarks.export.checkpoints.draw import stream_of
from glimpse_models.llava_1_5.heavy.text.sentencepiece_model import (
    BPE,
    BYTE,
    BYTE_WORDS,
    CONTROL,
    NORMAL,
    UNKNOWN,
    message_class,
)

MARKED = (1, 3 + ord("\n"))
"""Words that carry massive activations, as in the real models: the first of a prompt, and the line's end."""
_SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
_CHARACTERS = [chr(code) for code in range(33, 127)]
_LONGEST = 12


def tokenizer_model(words: int) -> bytes:
    """Returns a ``tokenizer.model`` of so many words: special ones, bytes, merged ones, and the characters of ASCII.

    Raises:
        ValueError: these are more.
    """
    fixed = len(_SPECIAL) + len(BYTE_WORDS) + len(_CHARACTERS) + 1
    if words < fixed:
        raise ValueError(f"--vocab must be at least {fixed}")
    merged = _merged(words - fixed)
    scored = [*merged, "▁", *_CHARACTERS]
    model = message_class()()
    for word, kind in (*_SPECIAL, *((word, BYTE) for word in BYTE_WORDS)):
        model.pieces.add(piece=word.encode(), score=0.0, type=kind)
    for rank, word in enumerate(scored):
        model.pieces.add(piece=word.encode(), score=-float(rank), type=NORMAL)
    model.trainer.model_type, model.trainer.byte_fallback = BPE, True
    model.normalizer.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _merged(count: int) -> list[str]:
    """Draws words that each join two that are there, letters and spaces more often than the rest."""
    rng = stream_of(0, "words")
    parts = [*(character for character in _CHARACTERS if character.islower() for _ in range(8)), *["▁"] * 40]
    parts += _CHARACTERS
    merged: dict[str, None] = {}
    while len(merged) < count:
        left, right = (parts[index] for index in rng.integers(len(parts), size=2))
        word = left + right
        # A space stands only before a word.
        if len(word) <= _LONGEST and "▁" not in right and word not in merged:
            merged[word] = None
            parts.append(word)
    return list(merged)
