"""The tokenizer's file and the pieces of the chat template."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.errors import CheckpointError
from glimpse_export.planning.plan import Plan
from glimpse_export.source.template import cut_template, read_template
from glimpse_runtime.bundle.manifest import PromptSpec

TOKENIZER = "tokenizer.json"


def read_prompt(plan: Plan) -> PromptSpec:
    """Checks the tokenizer and returns the pieces of the chat template.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not fit the model.
    """
    base = plan.folders.base
    source = base / TOKENIZER
    if not source.is_file():
        raise CheckpointError(f"{source} is missing; without it export for token ids only with --no-tokenizer")
    try:
        tokenizer = HFTokenizer.from_file(str(source))
    except Exception as error:  # the Rust library raises plain Exception
        raise CheckpointError(f"{source} cannot be read ({error}); download the checkpoint again") from None
    if tokenizer.get_vocab_size() > plan.architecture.text.vocab_size:
        raise CheckpointError(
            f"{source} has {tokenizer.get_vocab_size()} words, the model only {plan.architecture.text.vocab_size}"
        )
    prompt = cut_template(read_template(base), str(base))
    image = tokenizer.id_to_token(plan.architecture.tokens.image)
    if image is None or prompt.image.count(image) != 1:
        raise CheckpointError(f"{base}: the chat template does not place the image token {image!r} once per image")
    return prompt


def copy_tokenizer(plan: Plan, folder: Path) -> Path:
    """Copies the tokenizer into a folder and returns the copy."""
    return Path(shutil.copyfile(plan.folders.base / TOKENIZER, folder / TOKENIZER))
