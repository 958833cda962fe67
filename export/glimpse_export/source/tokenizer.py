"""The bundle's tokenizer, and the pieces of the prompt that a chat template gives."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.fields import MOST_BYTES
from glimpse_export.source.added_tokens import CONFIG, OLD, OLD_SPECIAL, add_tokens, special_tokens
from glimpse_export.source.template import cut_template, read_template
from glimpse_runtime.bundle.manifest import PromptSpec
from glimpse_runtime.files.reading import read_small

TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER, CONFIG, OLD, OLD_SPECIAL)
"""The files that a tokenizer is made of, of which only the first must be there."""


def check_tokenizer(source: Path, architecture: Architecture) -> HFTokenizer:
    """Returns a tokenizer that fits the model, with the tokens that the files beside it add.

    Raises:
        CheckpointError: it is missing or damaged, the files contradict each other, or it has more words than the model.
    """
    return _read(source, architecture)[0]


def write_tokenizer(source: Path, architecture: Architecture, target: Path) -> None:
    """Writes a tokenizer with all its tokens; the file itself where it has them.

    Raises:
        CheckpointError: see ``check_tokenizer``.
    """
    tokenizer, is_whole = _read(source, architecture)
    if is_whole:
        shutil.copyfile(source, target)
    else:
        tokenizer.save(str(target))


def template_prompt(base: Path, architecture: Architecture) -> PromptSpec:
    """Checks tokenizer and chat template of a folder and returns the template's pieces.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not fit the model.
        UnsupportedError: the chat template is not made of fixed pieces, or takes no images.
    """
    tokenizer = check_tokenizer(base / TOKENIZER, architecture)
    prompt = cut_template(read_template(base), str(base), special_tokens(base))
    image = tokenizer.id_to_token(architecture.tokens.image)
    if image is None or prompt.image.count(image) != 1:
        raise CheckpointError(
            f"{base}: the chat template does not place the image token {image!r} once per image; copy the base's "
            "chat_template and tokenizer files"
        )
    return prompt


def _read(source: Path, architecture: Architecture) -> tuple[HFTokenizer, bool]:
    """Returns the tokenizer, and whether nothing had to be added to it."""
    if not source.is_file():
        raise CheckpointError(f"{source} is missing; without it export for token ids only with --no-tokenizer")
    try:
        tokenizer = HFTokenizer.from_buffer(read_small(source, MOST_BYTES))
    except Exception as error:  # the Rust library raises plain Exception
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{source} cannot be read ({reason}); download the checkpoint again") from None
    added = add_tokens(tokenizer, source.parent, source)
    words, rows = tokenizer.get_vocab(), architecture.text.vocab_size
    word, highest = max(words.items(), key=lambda item: item[1], default=("", -1))
    if highest >= rows:
        where = next((entry.where for entry in added if entry.token.content == word), source)
        raise CheckpointError(
            f"{where}: {word[:60]!r} has the id {highest}, and the model has only {rows} words (ids 0..{rows - 1}); "
            "take the tokenizer files that belong to these weights"
        )
    return tokenizer, not added
