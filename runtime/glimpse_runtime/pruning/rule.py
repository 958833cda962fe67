"""The selection rule: which visual tokens stay for given scores and options."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, BoolArray, FloatArray, IntArray
from glimpse_runtime.bundle.anchors import ANCHORS
from glimpse_runtime.bundle.manifest import PruningDefaults
from glimpse_runtime.errors import PruningError
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruners import BEFORE
from glimpse_runtime.pruning.options import Pruning


@dataclass(frozen=True)
class Rule:
    """A request merged with the bundle's defaults."""

    threshold: float
    max_keep_ratio: float | None
    min_keep: int | None
    anchors: tuple[str, ...]


def merge(pruning: Pruning, defaults: PruningDefaults) -> Rule:
    """Fills what the request leaves open; a keep mask takes no defaults."""
    if pruning.keep_masks is not None:
        return Rule(0.5, pruning.max_keep_ratio, pruning.min_keep, pruning.anchors or ())
    return Rule(
        defaults.threshold if pruning.threshold is None else pruning.threshold,
        defaults.max_keep_ratio if pruning.max_keep_ratio is None else pruning.max_keep_ratio,
        defaults.min_keep if pruning.min_keep is None else pruning.min_keep,
        defaults.anchors if pruning.anchors is None else pruning.anchors,
    )


def entering(pruning: Pruning, rule: Rule, total: int) -> int:
    """Returns how many of ``total`` visual tokens enter layer 0, anchors aside.

    Raises:
        PruningError: the method keeps a fixed share, and neither request nor bundle names one.
    """
    least = rule.min_keep or 0
    if pruning.pruner.place == BEFORE:
        return fixed_count(pruning, rule, total)
    if pruning.pre_keep is None:
        return total
    return min(total, max(int(pruning.pre_keep * total), least, 1))


def fixed_count(pruning: Pruning, rule: Rule, total: int) -> int:
    """Returns how many of ``total`` visual tokens a method keeps that is not adaptive, anchors aside.

    Raises:
        PruningError: neither request nor bundle names a share.
    """
    if rule.max_keep_ratio is None:
        raise PruningError(f"method {pruning.method!r} keeps a fixed share; name it: max_keep_ratio=, --max-keep-ratio")
    return min(total, max(int(rule.max_keep_ratio * total), rule.min_keep or 0))


def check(rule: Rule, grids: Sequence[Grid]) -> None:
    """Refuses a rule that cannot be met, before any compute.

    Raises:
        PruningError: the minimum exceeds the number of visual tokens, or anchors with several images.
    """
    total = sum(grid.visual_tokens for grid in grids)
    if rule.min_keep is not None and rule.min_keep > total:
        raise PruningError(f"min_keep is {rule.min_keep}, but the prompt has only {total} visual tokens")
    if rule.anchors and len(grids) > 1:
        raise PruningError(f"anchors work with one image, the prompt has {len(grids)}; use anchors=()")


def select(logits: FloatArray, rule: Rule, grids: Sequence[Grid]) -> BoolArray:
    """Decides which visual tokens stay.

    The order of steps is the reference's (``_get_remain_masks``): threshold, cap, minimum, anchors. Ratio, minimum
    and the number of tokens count all images of the prompt together; anchors may exceed the cap.

    Args:
        logits: (visual tokens,) float32, the scorer's deciding row.
        rule: the merged options.
        grids: the images.

    Returns:
        (visual tokens,) bool.
    """
    total = len(logits)
    keep = probability(logits) > np.float32(rule.threshold)
    best_first = np.argsort(-logits, kind="stable")
    if rule.max_keep_ratio is not None and total and keep.sum() / total > rule.max_keep_ratio:
        keep[:] = False
        keep[best_first[: int(rule.max_keep_ratio * total)]] = True
    if rule.min_keep is not None and keep.sum() < rule.min_keep:
        keep[best_first[: rule.min_keep]] = True
    return add_anchors(keep, rule, grids)


def select_best(scores: FloatArray, count: int) -> BoolArray:
    """Keeps the ``count`` highest of (visual tokens,) scores; of equal ones the first."""
    keep = np.zeros(len(scores), np.bool_)
    keep[np.argsort(-scores, kind="stable")[:count]] = True
    return keep


def add_anchors(keep: BoolArray, rule: Rule, grids: Sequence[Grid]) -> BoolArray:
    """Marks the anchors in (visual tokens,) ``keep``, in place, and returns it."""
    for anchor in rule.anchors:
        keep[ANCHORS[anchor](*grids[0].merged)] = True
    return keep


def flat_masks(masks: Sequence[Array], grids: Sequence[Grid]) -> BoolArray:
    """Returns a caller's keep masks of all images as one (visual tokens,) array.

    Raises:
        PruningError: not one mask per image, or a mask of another shape.
    """
    if len(masks) != len(grids):
        raise PruningError(f"{len(masks)} keep masks for {len(grids)} images")
    pairs = zip(masks, grids, strict=True)
    return np.concatenate([_flat_mask(mask, grid, index) for index, (mask, grid) in enumerate(pairs)])


def _flat_mask(mask: Array, grid: Grid, index: int) -> BoolArray:
    try:
        array = np.asarray(mask)
    except Exception:  # of uneven rows, or of a class of the caller's
        raise PruningError(f"keep mask {index} is no rectangular array") from None
    if array.shape != grid.merged:
        raise PruningError(f"keep mask {index} has shape {array.shape}, the image's merged grid is {grid.merged}")
    if array.dtype.kind != "b" and not (array.dtype.kind in "iu" and np.isin(array, (0, 1)).all()):
        raise PruningError(f"keep mask {index} must hold True and False, found numbers of type {array.dtype}")
    return array.astype(np.bool_).reshape(-1)


def keep_index(keep: BoolArray, is_image: BoolArray) -> IntArray:
    """Returns the prompt rows that stay: all text and the kept visual tokens, in order."""
    rows = ~is_image
    rows[is_image] = keep
    return np.flatnonzero(rows)


def per_image(values: Array, grids: Sequence[Grid]) -> tuple[Array, ...]:
    """Cuts (visual tokens,) values into one (rows, columns) array per image."""
    ends = np.cumsum([grid.visual_tokens for grid in grids])[:-1]
    return tuple(part.reshape(grid.merged) for part, grid in zip(np.split(values, ends), grids, strict=True))


def probability(logits: FloatArray) -> FloatArray:
    """Returns sigmoid(logits) in float32 without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
