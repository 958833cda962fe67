"""Reads the words of a sentencepiece ``tokenizer.model`` of LLaMA's kind.

The file is one protobuf message, and ``protobuf`` (part of the ``export`` extra) reads it. Its schema, as far as it
matters here, is stated below: the copy in the sentencepiece package refuses every protobuf older than the newest, the
one in transformers is private. sentencepiece itself tells neither how it prepares text nor which words a user defined.
"""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_models.llava_1_5.heavy.text.vocabulary import LONGEST_WORD, Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
BYTE_WORDS = tuple(f"<0x{value:02X}>" for value in range(256))

_Field = tuple[int, str, Any]
_SCHEMA: Mapping[str, Mapping[str, _Field]] = {
    "Piece": {"piece": (1, "BYTES", ""), "score": (2, "FLOAT", 0.0), "type": (3, "INT32", NORMAL)},
    "Trainer": {
        "model_type": (3, "INT32", 1),
        "treat_whitespace_as_suffix": (24, "BOOL", False),
        "byte_fallback": (35, "BOOL", False),
    },
    "Normalizer": {
        "precompiled_charsmap": (2, "BYTES", ""),
        "add_dummy_prefix": (3, "BOOL", True),
        "remove_extra_whitespaces": (4, "BOOL", True),
        "escape_whitespaces": (5, "BOOL", True),
    },
    "Model": {"pieces": (1, "Piece", ...), "trainer": (2, "Trainer", None), "normalizer": (3, "Normalizer", None)},
}
"""Messages with their fields: number, type and default; ``...`` stands for a list, None for a message."""


def read_sentencepiece(path: Path) -> Vocabulary:
    """Reads a model.

    Raises:
        CheckpointError: it cannot be read, or its words make no vocabulary.
        UnsupportedError: it is not a model of LLaMA's kind.
    """
    model = _parse(path)
    _check_kind(model, path)
    words: dict[str, int] = {}
    scores: dict[str, float] = {}
    kinds: dict[int, list[str]] = {kind: [] for kind in (NORMAL, UNKNOWN, CONTROL, BYTE)}
    for index, piece in enumerate(model.pieces):
        word = _word(piece.piece, f"{path}: word {index}")
        if piece.type not in kinds:
            raise UnsupportedError(
                f"{path}: word {index} is of kind {piece.type} (user-defined, unused): not supported"
            )
        if word in words or not math.isfinite(piece.score):
            raise CheckpointError(f"{path}: word {index} is there twice or has no score; download the checkpoint again")
        words[word] = index
        kinds[piece.type].append(word)
        if piece.type == NORMAL:
            scores[word] = piece.score
    if sorted(kinds[BYTE]) != sorted(BYTE_WORDS) or len(kinds[UNKNOWN]) != 1:
        raise UnsupportedError(f"{path} does not have a word for each byte and one for what is unknown")
    return Vocabulary(words, _merges(scores), kinds[UNKNOWN][0], tuple(kinds[UNKNOWN] + kinds[CONTROL]))


def _word(data: bytes, what: str) -> str:
    try:
        word = data.decode()
    except UnicodeDecodeError:
        word = ""
    if not word:
        raise CheckpointError(f"{what} is not text; download the checkpoint again")
    if len(word) > LONGEST_WORD:
        raise UnsupportedError(f"{what} has more than {LONGEST_WORD} characters: not supported")
    return word


def _merges(scores: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """Returns which two words become one, the first to be merged first.

    sentencepiece merges the two neighbours whose union has the best score, the leftmost of equals. The ``tokenizers``
    package ranks the ways to one word as well; their order changed no id in 1.7 million random texts.
    """
    merges = []
    for word in sorted(scores, key=lambda word: -scores[word]):
        for cut in range(len(word) - 1, 0, -1):
            left, right = word[:cut], word[cut:]
            if left in scores and right in scores:
                merges.append((left, right))
    return tuple(merges)


def _check_kind(model: Any, path: Path) -> None:
    trainer, normalizer = model.trainer, model.normalizer
    for condition, what in (
        (trainer.model_type != BPE, "a model other than BPE"),
        (not trainer.byte_fallback, "a model without byte fallback"),
        (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix"),
        (bool(normalizer.precompiled_charsmap), "a normalizer that replaces characters"),
        (not normalizer.add_dummy_prefix, "add_dummy_prefix false"),
        (normalizer.remove_extra_whitespaces, "remove_extra_whitespaces"),
        (not normalizer.escape_whitespaces, "escape_whitespaces false"),
    ):
        if condition:
            raise UnsupportedError(f"{path}: {what} is not supported")


def _parse(path: Path) -> Any:
    try:
        message = message_class()
    except ImportError:
        raise UnsupportedError(f'reading {path} needs protobuf; run: pip install "glimpse-edge[export]"') from None
    try:
        return message.FromString(path.read_bytes())
    except Exception as error:  # of a class that depends on the version of protobuf
        raise CheckpointError(f"{path} cannot be read ({error}); download the checkpoint again") from None


@cache
def message_class() -> Any:
    """Returns the protobuf class of such a file.

    Raises:
        ImportError: protobuf is not installed.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "glimpse.sentencepiece"
    file = descriptor_pb2.FileDescriptorProto(name="sentencepiece_model.proto", package=package, syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for key, (number, kind, default) in fields.items():
            label = kinds.LABEL_REPEATED if default is ... else kinds.LABEL_OPTIONAL
            field = message.field.add(name=key, number=number, label=label)
            if kind in _SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind}")
                field.default_value = str(default).lower()
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))
