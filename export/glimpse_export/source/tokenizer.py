"""The tokenizer's file, and the pieces of the prompt that a chat template gives."""

from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import Architecture
from glimpse_export.source.template import cut_template, read_template
from glimpse_runtime.bundle.manifest import PromptSpec

TOKENIZER = "tokenizer.json"


def check_tokenizer(source: Path, architecture: Architecture) -> HFTokenizer:
    """Returns a tokenizer that fits the model.

    Raises:
        CheckpointError: it is missing or damaged, or has more words than the model.
    """
    if not source.is_file():
        raise CheckpointError(f"{source} is missing; without it export for token ids only with --no-tokenizer")
    try:
        tokenizer = HFTokenizer.from_file(str(source))
    except Exception as error:  # the Rust library raises plain Exception
        raise CheckpointError(f"{source} cannot be read ({error}); download the checkpoint again") from None
    if tokenizer.get_vocab_size() > architecture.text.vocab_size:
        raise CheckpointError(
            f"{source} has {tokenizer.get_vocab_size()} words, the model only {architecture.text.vocab_size}"
        )
    return tokenizer


def template_prompt(base: Path, architecture: Architecture) -> PromptSpec:
    """Checks tokenizer and chat template of a folder and returns the template's pieces.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not fit the model.
    """
    tokenizer = check_tokenizer(base / TOKENIZER, architecture)
    prompt = cut_template(read_template(base), str(base))
    image = tokenizer.id_to_token(architecture.tokens.image)
    if image is None or prompt.image.count(image) != 1:
        raise CheckpointError(f"{base}: the chat template does not place the image token {image!r} once per image")
    return prompt
