"""Batches for training: scenes drawn on the fly, their questions as token ids, and dense targets for the patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import CELL, PATCH, special_id
from glimpse_models.pocket.model.tokenizer import END_OF_TEXT, TURN_END, build_tokenizer, prompt_parts
from glimpse_models.pocket.scenes.questions import TYPES, Question, ask
from glimpse_models.pocket.scenes.relevant import MARGIN, graded_tokens, relevant_tokens
from glimpse_models.pocket.scenes.scenes import Contents, Scene, SceneObject, make_scene
from glimpse_models.pocket.scenes.sprites import COLOURS, KINDS, Box
from glimpse_models.pocket.scenes.texts import DIGITS, LETTERS, LONGEST_TEXT, Split

QUESTIONS = 8
"""Questions asked about every training image."""
SEGMENT = 20
"""Tokens reserved for a question with its answer."""
IGNORED = -100
CHARACTERS = DIGITS + LETTERS
DENSE_CLASSES = (1 + len(KINDS), 1 + len(COLOURS), 1 + len(CHARACTERS), 1 + LONGEST_TEXT)
"""Classes of the dense targets: kind, colour, character, and its place in the text; 0 is none."""
TURNS = {"count": 3, "word": 3, "number": 2}
"""How often the harder question types are asked, per turn of the others."""
_BORDER = 4


@dataclass(frozen=True)
class BatchSpec:
    """Size of one batch; ``few`` and ``lettered`` are the shares of such scenes (see ``make_scene``)."""

    height: int
    width: int
    images: int
    few: float = 0.0
    lettered: float = 0.0


class RowEncoder:
    """Turns questions and answers into token ids."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        """Use ``tokenizer``, or build the pocket tokenizer."""
        self.tokenizer = tokenizer or build_tokenizer()
        self.prefix = self.encode(prompt_parts("")[0])
        self.end = special_id(TURN_END)
        self.pad = special_id(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return [int(index) for index in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def prompt_tail(self, question: str) -> list[int]:
        """Return the ids that follow the image tokens in the prompt."""
        return self.encode(prompt_parts(question)[1])

    def segment(self, question: str, answer: str) -> tuple[list[int], list[int], int]:
        """Encode a question with its answer.

        Returns:
            ``SEGMENT`` ids, as many labels, and the index of the last prompt token.

        Raises:
            ValueError: The two do not fit into a segment.
        """
        prompt = self.prompt_tail(question)
        ids = [*prompt, *self.encode(answer), self.end]
        if len(ids) > SEGMENT:
            raise ValueError(f"{question!r} with {answer!r} takes {len(ids)} tokens; a segment has {SEGMENT}")
        labels = [IGNORED] * SEGMENT
        labels[len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
        return ids + [self.pad] * (SEGMENT - len(ids)), labels, len(prompt) - 1


def dense_targets(objects: Sequence[SceneObject], height: int, width: int) -> npt.NDArray[np.int64]:
    """Name what each patch shows, (targets, patch rows, patch columns), in the order of ``DENSE_CLASSES``."""
    target = np.zeros((len(DENSE_CLASSES), height // PATCH, width // PATCH), np.int64)
    names = list(COLOURS)
    for item in objects:
        left, top, right, bottom = item.box
        first_row, last_row = (max(0, round(y / PATCH)) for y in (top + _BORDER, bottom - _BORDER))
        first_column, last_column = (max(0, round(x / PATCH)) for x in (left + _BORDER, right - _BORDER))
        area = target[:, first_row:last_row, first_column:last_column]
        area[0], area[1] = 1 + KINDS.index(item.kind), 1 + names.index(item.colour)
        for place, (character, x, y) in enumerate(item.glyphs, 1):
            row, column = int(y // PATCH), int(x // PATCH)
            if row < target.shape[1] and column < target.shape[2]:
                target[2:, row, column] = 1 + CHARACTERS.index(character), place
    return target


def collate(encoder: RowEncoder, samples: Sequence[tuple[Scene, Sequence[Question]]]) -> Batch:
    """Turn scenes of one size with equally many questions into a batch."""
    width, height = samples[0][0].image.size
    grid = (height // CELL, width // CELL)
    segments = [[encoder.segment(q.text, q.answer) for q in questions] for _, questions in samples]
    return Batch(
        pixels=torch.from_numpy(np.stack([np.asarray(scene.image) for scene, _ in samples])),
        ids=torch.tensor([[segment[0] for segment in row] for row in segments]),
        labels=torch.tensor([[segment[1] for segment in row] for row in segments]),
        last=torch.tensor([[segment[2] for segment in row] for row in segments]),
        types=torch.tensor([[TYPES.index(q.type) for q in questions] for _, questions in samples]),
        dense=torch.from_numpy(np.stack([dense_targets(scene.objects, height, width) for scene, _ in samples])),
        relevant=_marked(samples, lambda boxes: relevant_tokens(boxes, (width, height), *grid, MARGIN)),
        wanted=_marked(samples, lambda boxes: graded_tokens(boxes, (width, height), *grid)),
    )


def _marked(
    samples: Sequence[tuple[Scene, Sequence[Question]]], mark: Callable[[Sequence[Box]], npt.NDArray[Any]]
) -> Tensor:
    return torch.from_numpy(np.stack([[mark(q.boxes) for q in questions] for _, questions in samples]))


def draw_batch(rng: Random, encoder: RowEncoder, spec: BatchSpec, split: Split = "train") -> Batch:
    """Draw scenes of one size and ask about them."""
    samples = []
    for _ in range(spec.images):
        drawn = rng.random()
        contents: Contents = "few" if drawn < spec.few else "lettered" if drawn < spec.few + spec.lettered else "usual"
        scene = make_scene(rng, spec.width, spec.height, split, contents)
        samples.append((scene, ask(rng, scene.objects, QUESTIONS, TURNS)))
    return collate(encoder, samples)


class _Stream(IterableDataset[Batch]):
    def __init__(self, specs: Sequence[BatchSpec], first: int, seed: str) -> None:
        self.specs, self.first, self.seed = specs, first, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        encoder = RowEncoder()
        for step in range(self.first, len(self.specs)):
            yield draw_batch(Random(f"{self.seed}/{step}"), encoder, self.specs[step])


def batches(specs: Sequence[BatchSpec], first: int, seed: str) -> Iterator[Batch]:
    """Draw the batches of the steps from ``first`` on, in a process beside the caller's.

    Args:
        specs: One entry per step of the whole run, so that a resumed run draws what an unbroken one would.
        first: The step to begin with.
        seed: Names the run and the worker.

    Returns:
        An iterator over the batches.
    """
    return iter(DataLoader(_Stream(specs, first, seed), batch_size=None, num_workers=1, prefetch_factor=6))
