"""Reads the words of a LLaMA ``tokenizer.json``, whatever version of transformers has written it.

Versions differ in where they put the space before a text (``Prepend``, ``Metaspace``); none of that is taken over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError
from glimpse_export.model.fields import Fields, read_json
from glimpse_models.llava_1_5.heavy.text.vocabulary import Vocabulary


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Reads a file.

    Raises:
        CheckpointError: it cannot be read, or its words make no vocabulary.
        UnsupportedError: it is not a tokenizer of LLaMA's kind.
    """
    content = read_json(path)
    model = Fields(content, str(path)).get("model", dict)
    fields = Fields(model, f"{path}, 'model'")
    fields.refuse(model.get("type", "BPE") != "BPE", "a model other than BPE")
    fields.refuse(not fields.get("byte_fallback", bool, False), "a model without byte fallback")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        fields.refuse(bool(model.get(key)), key)
    fields.refuse(
        model.get("unk_token") is None,
        "a file without 'unk_token', as transformers 5 writes it with merges in a wrong order (take the original's "
        "tokenizer.model),",
    )
    words = _ids(fields, fields.get("vocab", dict))
    merges = tuple(_merge(fields, merge) for merge in fields.get("merges", list))
    unknown = fields.get("unk_token", str)
    special, added = [], {}
    for entry in Fields(content, str(path)).get("added_tokens", list, []):
        token = Fields(entry if isinstance(entry, dict) else {}, f"{path}, 'added_tokens'")
        word, index = token.get("content", str), token.at_least("id", 0)
        if words.setdefault(word, index) != index:
            raise CheckpointError(f"{path} gives two ids to {word!r}; download the checkpoint again")
        if token.get("special", bool, False):
            special.append(word)
        else:
            added[word] = index
    if unknown not in words:
        raise CheckpointError(f"{path} has no word {unknown!r}; download the checkpoint again")
    return Vocabulary(words, merges, unknown, tuple(dict.fromkeys(special)), added)


def _ids(fields: Fields, vocab: Mapping[str, Any]) -> dict[str, int]:
    for index in vocab.values():
        if type(index) is not int or index < 0:
            raise fields.wrong("vocab", "words with their ids")
    return dict(vocab)


def _merge(fields: Fields, merge: Any) -> tuple[str, str]:
    """Returns one merge; older files write its two words as one text with a space between."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise fields.wrong("merges", "pairs of words")
    return parts[0], parts[1]
