"""The bundle's tokenizer, made of either file that published checkpoints have.

Neither transformers nor the ``tokenizers`` package can be left to convert them: no version of transformers gives the
original's ids for ``legacy`` false (4.57 and 5.24 lose a leading space), and 5.24 ranks the merges of a
``tokenizer.model`` wrongly. Where both files are there, ``tokenizer.model`` is taken: it is what the original reads.
"""

from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.architecture import Architecture
from glimpse_export.source.tokenizer import TOKENIZER
from glimpse_models.llava_1_5.heavy.text.sentencepiece_model import read_sentencepiece
from glimpse_models.llava_1_5.heavy.text.tokenizer_json import read_tokenizer_json
from glimpse_models.llava_1_5.heavy.text.vocabulary import Vocabulary

SENTENCEPIECE = "tokenizer.model"
BEGIN, END, IMAGE = "<s>", "</s>", "<image>"
LARGEST_FILE = 64 << 20


def tokenizer_file(base: Path) -> Path:
    """Returns the file that the bundle's tokenizer is made of."""
    model, json = base / SENTENCEPIECE, base / TOKENIZER
    return json if json.is_file() and not model.is_file() else model


def read_vocabulary(base: Path, architecture: Architecture) -> Vocabulary:
    """Returns the checkpoint's words, which fit the model.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the model.
        UnsupportedError: it is not a tokenizer of LLaMA's kind.
    """
    path = tokenizer_file(base)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, and {TOKENIZER} too; without them export for token ids only with --no-tokenizer"
        )
    if path.stat().st_size > LARGEST_FILE:
        raise UnsupportedError(f"{path} has more than {LARGEST_FILE >> 20} MiB: not supported")
    vocabulary = read_sentencepiece(path) if path.name == SENTENCEPIECE else read_tokenizer_json(path)
    _check_special(vocabulary, path)
    _check_ids(vocabulary, architecture, path)
    return vocabulary


def make_tokenizer(base: Path, architecture: Architecture) -> Any:
    """Returns the bundle's tokenizer.

    Raises:
        CheckpointError: the checkpoint's is missing or damaged, or does not fit the model.
        UnsupportedError: it is not a tokenizer of LLaMA's kind.
    """
    vocabulary = read_vocabulary(base, architecture)
    try:
        return vocabulary.tokenizer(IMAGE, architecture.tokens.image)
    except Exception as error:  # the Rust library raises plain Exception
        path = tokenizer_file(base)
        raise CheckpointError(f"{path} cannot be read ({error}); download the checkpoint again") from None


def write_tokenizer(base: Path, architecture: Architecture, target: Path) -> None:
    """Writes the bundle's ``tokenizer.json``.

    Raises:
        CheckpointError: the checkpoint's is missing or damaged, or does not fit the model.
        UnsupportedError: it is not a tokenizer of LLaMA's kind.
    """
    make_tokenizer(base, architecture).save(str(target))


def _check_special(vocabulary: Vocabulary, path: Path) -> None:
    for word in (BEGIN, END):
        if word not in vocabulary.special:
            raise CheckpointError(f"{path} has no special word {word!r}; it is not the tokenizer of this model")


def _check_ids(vocabulary: Vocabulary, architecture: Architecture, path: Path) -> None:
    image, rows = architecture.tokens.image, architecture.text.vocab_size
    by_id = {index: word for word, index in vocabulary.words.items()}
    if len(by_id) != len(vocabulary.words):
        raise CheckpointError(f"{path} gives one id to two words; download the checkpoint again")
    if by_id.get(image, IMAGE) != IMAGE:
        raise CheckpointError(
            f"{path}: the model's image token is {image}, which is the word {by_id[image]!r} here; the tokenizer is of "
            "another model"
        )
    if vocabulary.words.get(IMAGE, image) != image:
        raise CheckpointError(
            f"{path}: {IMAGE!r} is token {vocabulary.words[IMAGE]}, the model's image token is {image}; the tokenizer "
            "is of another model"
        )
    highest = max(index for index in by_id if index != image)
    if highest >= rows:
        raise CheckpointError(f"{path} has {highest + 1} words, the model only {rows}")
