"""Training losses: what every patch shows, the answers' tokens, and the mask of relevant visual tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from glimpse_models.pocket.training.data import DENSE_CLASSES, IGNORED

_BACKGROUND_WEIGHT = 0.1
_EXTRA_WEIGHT = 0.3
"""What a kept irrelevant token weighs in the mask loss; a dropped relevant one weighs the rest."""


def dense_loss(logits: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Score the patch classifier.

    Args:
        logits: (batch, tokens, 4 * classes), a token's four patches row by row.
        dense: (batch, targets, patch rows, patch columns).

    Returns:
        The sum of the weighted cross entropies, and the accuracy on patches with a character.
    """
    batch, targets, height, width = dense.shape
    target = dense.view(batch, targets, height // 2, 2, width // 2, 2).permute(1, 0, 2, 4, 3, 5)
    target = target.reshape(targets, -1)
    flat = logits.float().reshape(-1, sum(DENSE_CLASSES))
    parts = torch.split(flat, list(DENSE_CLASSES), -1)
    loss = torch.stack([_weighted(part, wanted) for part, wanted in zip(parts, target, strict=True)]).sum()
    shown = target[2] > 0
    hits = (parts[2].argmax(-1) == target[2]) & shown
    return loss, hits.sum() / shown.sum().clamp(min=1)


def _weighted(logits: Tensor, target: Tensor) -> Tensor:
    loss = functional.cross_entropy(logits, target, reduction="none")
    weight = torch.where(target > 0, 1.0, _BACKGROUND_WEIGHT)
    return (loss * weight).sum() / weight.sum()


def answer_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Score the answers.

    Args:
        logits: (batch, questions * segment, vocabulary).
        labels: (batch, questions, segment).

    Returns:
        The mean loss per answer, long ones weighing more (by the root of their length), and which answers are
        right in every token, (batch, questions).
    """
    flat = labels.reshape(-1)
    loss = functional.cross_entropy(logits.reshape(len(flat), -1), flat, ignore_index=IGNORED, reduction="none")
    scored = labels != IGNORED
    per_answer = loss.view_as(labels).sum(-1) / scored.sum(-1).sqrt()
    right = (logits.argmax(-1).view_as(labels) == labels) | ~scored
    return per_answer.mean(), right.all(-1)


def mask_loss(logits: Tensor, relevant: Tensor, wanted: Tensor) -> Tensor:
    """Score the keep mask; all are (questions, tokens).

    A Tversky loss, which is dice with a dropped relevant token dearer than a kept irrelevant one, decides what is kept;
    binary cross entropy with graded scores decides what comes first.

    Args:
        logits: Of the scorer.
        relevant: Which tokens to keep.
        wanted: What they should score, 0 to 1.
    """
    target = relevant.float()
    probability = logits.sigmoid()
    hits = (probability * target).sum(-1)
    extra, missed = probability.sum(-1) - hits, target.sum(-1) - hits
    tversky = 1 - (hits + 1e-6) / (hits + _EXTRA_WEIGHT * extra + (1 - _EXTRA_WEIGHT) * missed + 1e-6)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)
    return (tversky + entropy / (wanted.sum(-1) + 1)).mean()
