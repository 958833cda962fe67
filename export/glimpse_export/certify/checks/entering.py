"""The rows that enter the decoder: words, visual tokens and the glimpse's, of all prompts side by side."""

from dataclasses import dataclass

import numpy as np

from glimpse_export.certify.checks.head import HeadCheck
from glimpse_export.certify.checks.vision import Seen
from glimpse_export.certify.trials.inputs import Inputs, Trial
from glimpse_export.certify.trials.packed import Packed
from glimpse_export.model.architecture import Architecture
from glimpse_runtime.arrays import BoolArray, FloatArray, IntArray
from glimpse_runtime.bundle.embedding import EmbeddingTable


@dataclass(frozen=True)
class Entering:
    """What goes into layer 0.

    Attributes:
        packed: owners and positions.
        ours: the bundle's rows, one array per prompt.
        reference: the reference's rows, all together.
        visual: (rows,) which are visual tokens.
        gate: (rows, glimpse rows) 1 where a row is that glimpse row.
    """

    packed: Packed
    ours: list[FloatArray]
    reference: FloatArray
    visual: BoolArray
    gate: FloatArray


def entering(
    inputs: Inputs, seen: tuple[Seen, Seen], table: EmbeddingTable, head: HeadCheck, architecture: Architecture
) -> Entering:
    """Puts the rows of all prompts together; glimpse rows enter as zeros behind their prompt."""
    length = architecture.glimpse.length
    ours, reference, positions = [], [], []
    visual: list[BoolArray] = []
    gates: list[FloatArray] = []
    for trial in inputs.trials:
        ids = trial.prompt.ids
        is_image = ids == architecture.tokens.image
        words = np.where(is_image, 0, ids)
        ours.append(_rows(table.rows(words), is_image, seen[0], trial, length))
        reference.append(_rows(head.embed(words).numpy(), is_image, seen[1], trial, length))
        visual.append(np.concatenate([is_image, np.zeros(length, np.bool_)]))
        gates.append(np.concatenate([np.zeros((len(ids), length)), np.eye(length)]).astype(np.float32))
        positions.append(_with_glimpse(trial.prompt.positions, length))
    return Entering(
        Packed.join(positions), ours, np.concatenate(reference), np.concatenate(visual), np.concatenate(gates)
    )


def _rows(words: FloatArray, is_image: BoolArray, seen: Seen, trial: Trial, length: int) -> FloatArray:
    rows = np.zeros((len(words) + length, words.shape[1]), np.float32)
    rows[: len(words)] = words
    rows[: len(words)][is_image] = np.concatenate([seen.embeds[image] for image in trial.images])
    return rows


def _with_glimpse(positions: IntArray, length: int) -> IntArray:
    """Glimpse rows follow the last prompt row's position on the last axis, on all axes."""
    follow = positions[-1, -1] + 1 + np.arange(length)
    return np.concatenate([positions, np.tile(follow, (len(positions), 1))], axis=1)
