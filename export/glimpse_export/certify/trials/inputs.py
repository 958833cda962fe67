"""The images and prompts a bundle is tried with, and the proof that both sides prepare them equally."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.certify.measures.record import DIFFERENT_TEXTS, DIFFERENT_TOKENS, DIFFERENT_WORDS, Recorder, Stop
from glimpse_export.certify.reference.base import Reference
from glimpse_export.graphs.dialects import dialect
from glimpse_export.model.fields import read_json
from glimpse_export.planning.plan import Plan
from glimpse_export.source.tokenizer import TOKENIZER
from glimpse_runtime.arrays import IntArray
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.inputs.family import Family, open_family
from glimpse_runtime.inputs.grid import Patches
from glimpse_runtime.inputs.prompt import Prompt, build_prompt, place
from glimpse_runtime.inputs.tokenizer import Tokenizer

STAGE = "preprocess"
# (width, height): sides that leave partial windows, one that must be resized, one tall.
_SIZES = ((252, 196), (301, 190), (140, 392))
_QUESTIONS = ("What is in this picture?", "Describe the colours, from left to right.", "What differs between the two?")
# Images and question of each prompt.
_PROMPTS = {"quick": (((0,), 0),), "full": (((0,), 0), ((1,), 1), ((2,), 1), ((0, 1), 2))}
_WORDS = 12
# Questions that tokenizers differ in, without special tokens, which a question cannot hold. All is composed (NFC): what
# becomes of other text has changed from transformers 4 to 5.
_TEXTS = (
    "  two  spaces,\ttab\n\n\nlines \n end ",
    "It's 12345.678 km, I'LL don't; e-mail: a_b@c.org (x1y22z333)?!",
    "Größe, naïve, İstanbul, Привет мир, 東京の天気は？ مرحبا 👋🏽 — “…” ½ ﬁ",
    "def f(x):\n    return {'a': [x**2, None]}  # ok\r\n",
)


@dataclass(frozen=True)
class Trial:
    """One prompt: which of the images it shows, and what it asks."""

    images: tuple[int, ...]
    prompt: Prompt


@dataclass(frozen=True)
class Inputs:
    """Everything a bundle is tried with."""

    images: tuple[Patches, ...]
    trials: tuple[Trial, ...]


def prepare(
    checked: Plan, folder: Path, manifest: Manifest, base: Reference, level: str, recorder: Recorder, steps: int
) -> Inputs:
    """Prepares images and prompts as the runtime does, and compares with the original.

    Args:
        checked: the plan of the export.
        folder: the written bundle.
        manifest: the bundle's manifest.
        base: the reference.
        level: ``quick`` or ``full``.
        recorder: gets the figures.
        steps: tokens of every answer.

    Raises:
        Stop: no prompt fits into the context.
    """
    family = open_family(manifest)
    pictures = [_picture(*size, seed) for seed, size in enumerate(_SIZES)]
    most = family.images_per_prompt
    chosen = [(images, question) for images, question in _PROMPTS[level] if most is None or len(images) <= most]
    used = range(1 + max(index for images, _ in chosen for index in images))
    patches = []
    for index in used:
        ours = family.patches(pictures[index])
        theirs, grid = base.processed(pictures[index], checked.images)
        equal = (ours.grid.rows, ours.grid.columns) == grid and ours.pixel_values.shape == theirs.shape
        wrong = int((ours.pixel_values != theirs).sum()) if equal else ours.pixel_values.size
        recorder.at_most(STAGE, None, "different_pixel_values", wrong, 0)
        patches.append(ours)
    trials = []
    for images, question in chosen:
        prompt = _prompt(
            checked,
            folder,
            manifest,
            family,
            base,
            [patches[index] for index in images],
            _QUESTIONS[question],
            recorder,
        )
        grids = [(grid.rows, grid.columns) for grid in prompt.grids]
        wrong = int((prompt.positions != base.positions(prompt.ids, grids)).sum())
        recorder.at_most(STAGE, None, "different_positions", wrong, 0)
        trials.append(Trial(images, prompt))
    if manifest.prompt is not None:
        _check_tokenizer(checked, folder, manifest, family, base, recorder)
    return Inputs(tuple(patches), _fitting(trials, checked, steps))


def _fitting(trials: Sequence[Trial], checked: Plan, steps: int) -> tuple[Trial, ...]:
    """Leaves out the prompts that are longer than a KV cache whose length is a part of the graphs.

    Elsewhere nothing is bound by the context: every layer is run with a cache of just the rows at hand.
    """
    if not any(dialect(name).fixed_cache for name in checked.options.dialects):
        return tuple(trials)
    context, more = checked.profiles["context"].max, checked.architecture.glimpse.length + steps
    fitting = tuple(trial for trial in trials if len(trial.prompt.ids) + more <= context)
    if not fitting:
        raise Stop(f"prompts that fit into a context of {context} rows")
    return fitting


def _prompt(
    checked: Plan,
    folder: Path,
    manifest: Manifest,
    family: Family,
    base: Reference,
    patches: Sequence[Patches],
    question: str,
    recorder: Recorder,
) -> Prompt:
    grids = [image.grid for image in patches]
    token = manifest.tokens.image
    if manifest.prompt is None:
        counts = [grid.visual_tokens for grid in grids]
        return place(_plain_ids(checked, counts, base.around_image), grids, token, family)
    prompt = build_prompt(Tokenizer(folder / TOKENIZER), manifest.prompt, manifest.tokens, family, question, grids)
    expected = base.prompt_ids(checked.folders.base, question, [grid.merged for grid in grids], token)
    wrong = sum(a != b for a, b in zip(expected, prompt.ids.tolist(), strict=False))
    recorder.at_most(STAGE, None, DIFFERENT_TOKENS, wrong + abs(len(expected) - len(prompt.ids)), 0)
    return prompt


def _check_tokenizer(
    checked: Plan, folder: Path, manifest: Manifest, family: Family, base: Reference, recorder: Recorder
) -> None:
    """Compares the tokenizers: the words they take whole, and the ids of questions that hold the plain ones of them."""
    assert manifest.prompt is not None
    added = HFTokenizer.from_file(str(folder / TOKENIZER)).get_added_tokens_decoder()
    ours, theirs = {token.content: index for index, token in added.items()}, base.added_words(checked.folders.base)
    if theirs is not None:
        different = set(ours.items()) ^ set(theirs.items())
        recorder.at_most(STAGE, None, DIFFERENT_WORDS, len({word for word, _ in different}), 0)
    plain = [token.content for token in added.values() if not token.special]
    tokenizer, wrong = Tokenizer(folder / TOKENIZER), 0
    for question in (*_TEXTS, *(f"a{word}b {word} {word}." for word in plain)):
        prompt = build_prompt(tokenizer, manifest.prompt, manifest.tokens, family, question, [])
        expected = base.prompt_ids(checked.folders.base, question, [], manifest.tokens.image)
        wrong += int(expected != prompt.ids.tolist())
    recorder.at_most(STAGE, None, DIFFERENT_TEXTS, wrong, 0)


def _plain_ids(checked: Plan, counts: Sequence[int], marks: tuple[list[int], list[int]]) -> IntArray:
    """A prompt of fixed ids for a bundle without a tokenizer; ``marks`` stand around the tokens of an image."""
    config, image = read_json(checked.folders.base / "config.json"), checked.architecture.tokens.image
    special = {token for key, token in config.items() if key.endswith("token_id") and isinstance(token, int)}
    special |= {image, *checked.architecture.tokens.eos}
    plain = [token for token in range(min(checked.architecture.text.vocab_size, 1000)) if token not in special]
    words = [plain[7 * index % len(plain)] for index in range(_WORDS)]
    ids = words[: _WORDS // 2]
    for count in counts:
        ids = [*ids, *marks[0], *[image] * count, *marks[1]]
    return np.array([*ids, *words[_WORDS // 2 :]], np.int64)


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Coloured squares with noise: something at every scale."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (-(-height // 28), -(-width // 28), 3)).repeat(28, 0).repeat(28, 1)
    noisy = squares[:height, :width] + rng.integers(-30, 31, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
