"""A question and its images -> token ids, by the model's own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.bundle.manifest import PromptSpec, TokenIds
from glimpse_runtime.checked import shown
from glimpse_runtime.checked import text as checked_text
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.tokenizer import Tokenizer

# Of one token: vocabularies have runs of so many blanks at the longest.
_MOST_CHARACTERS = 256


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        ids: (tokens,) int64 with one image token per visual token.
        grids: the patch grids of its images, in order.
        positions: (axes, tokens) int64 rope positions.
    """

    ids: IntArray
    grids: tuple[Grid, ...]
    positions: IntArray


def checked_ids(ids: Sequence[int] | IntArray, vocab_size: int, image_token: int) -> IntArray:
    """Returns a tokenised prompt as (tokens,) int64; the image token may lie outside the vocabulary.

    Raises:
        PromptError: it is no sequence of ids, or one is not in the vocabulary.
    """
    try:
        array = np.asarray(ids)
    except Exception:  # lists of uneven lengths, text that is no ASCII, a class of the caller's
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise PromptError("the prompt must be a non-empty one-dimensional sequence of integer token ids")
    words = array[array != image_token]
    if words.size and (words.min() < 0 or words.max() >= vocab_size):
        raise PromptError(f"token ids must lie in 0..{vocab_size - 1}, found {words.min()}..{words.max()}")
    return array.astype(np.int64)


def place(ids: IntArray, grids: Sequence[Grid], image_token: int, family: Family) -> Prompt:
    """Returns the prompt of some ids, with every token's position.

    Raises:
        PromptError: image tokens and images do not match, or there are more images than the model takes.
    """
    most = family.images_per_prompt
    if most is not None and len(grids) > most:
        raise PromptError(
            f"this model was made for {most} image in a prompt, found {len(grids)}; ask about one at a time"
        )
    return Prompt(ids, tuple(grids), family.positions(ids, grids, image_token))


def build_prompt(
    tokenizer: Tokenizer,
    template: PromptSpec,
    tokens: TokenIds,
    family: Family,
    question: str,
    grids: Sequence[Grid] = (),
    system: str | None = None,
    turns: Sequence[tuple[str, str]] = (),
    context: int | None = None,
) -> Prompt:
    """Builds a prompt: the images in order, then the earlier turns, then the question.

    Args:
        tokenizer: the model's tokenizer.
        template: the pieces of its chat template.
        tokens: its special ids.
        family: gives every token its position.
        question: the user's text; special tokens spelled in it stay text.
        grids: patch grids of the images.
        system: system message; None is the template's own.
        turns: earlier (question, answer) texts of the conversation; the images come before the first question.
        context: the most tokens there is room for, None for any number: far longer texts are not even tokenised.

    Raises:
        PromptError: the question is not text, is empty, or cannot fit.
    """
    turns = _checked_turns(turns)
    for what, text in (
        ("question", question),
        ("system message", "" if system is None else system),
        *(("turn", t) for turn in turns for t in turn),
    ):
        checked_text(what, text, PromptError)
        if context is not None and len(text) > context * _MOST_CHARACTERS:
            raise PromptError(
                f"the {what} has {len(text)} characters, more than a context of {context} tokens holds; shorten it, or "
                "export with a larger --max-context"
            )
    if not question.strip():
        raise PromptError("the question is empty; is a variable not set?")
    pieces: list[tuple[str, bool]] = []
    message = template.default_system if system is None else system
    if message is not None:
        pieces += [(template.system_open, True), (message, system is None), (template.system_close, True)]
    pieces.append((template.user_open, True))
    pieces += [(template.image, True)] * len(grids)
    for earlier, answer in turns:
        pieces += [(earlier, False), (template.user_close, True), (template.assistant_open, True)]
        pieces += [
            (template.answer_open, True),
            (answer, False),
            (template.assistant_close, True),
            (template.user_open, True),
        ]
    pieces += [(question, False), (template.user_close, True), (template.assistant_open, True)]
    ids = expand_images(np.array(tokenizer.encode(pieces), np.int64), grids, tokens.image)
    return place(ids, grids, tokens.image, family)


def _checked_turns(turns: object) -> list[tuple[str, str]]:
    """Returns earlier turns as pairs; their texts are checked with the others."""
    pairs = list(turns) if isinstance(turns, Sequence) and not isinstance(turns, (str, bytes)) else None
    if pairs is None or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise PromptError(f"turns must be a list of (question, answer) texts, found {shown(turns)}")
    return pairs


def expand_images(ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
    """Repeats each image's single placeholder once per visual token.

    Raises:
        PromptError: there are not as many placeholders as images.
    """
    placeholder = ids == image_token
    if int(placeholder.sum()) != len(grids):
        raise PromptError(f"the prompt has {int(placeholder.sum())} image placeholders for {len(grids)} images")
    repeats = np.ones(len(ids), np.int64)
    repeats[placeholder] = [grid.visual_tokens for grid in grids]
    return np.repeat(ids, repeats)
