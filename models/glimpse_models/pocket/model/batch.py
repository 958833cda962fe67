"""What the model is trained on at a time."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images of one size with their questions.

    Attributes:
        pixels: (batch, height, width, 3) uint8.
        ids: (batch, questions, segment) tokens from the end-of-image marker on, question and answer.
        labels: The same shape: the token to predict at each place, or ``IGNORED``.
        last: (batch, questions) index of the last prompt token.
        types: (batch, questions) index into ``TYPES``.
        dense: (batch, targets, patch rows, patch columns) class of each patch for each dense target.
        relevant: (batch, questions, rows, columns) visual tokens that the answer's boxes touch, with a margin.
        wanted: The same shape: what they should score, 0 to 1.
    """

    pixels: Tensor
    ids: Tensor
    labels: Tensor
    last: Tensor
    types: Tensor
    dense: Tensor
    relevant: Tensor
    wanted: Tensor
