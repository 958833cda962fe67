"""Which visual tokens stay: the request, the selection rule and the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from glimpse_runtime.errors import PruningError
from glimpse_runtime.manifest import PruningDefaults
from glimpse_runtime.preprocess import Grid
from glimpse_runtime.regions import Box, kept_boxes
from glimpse_runtime.types import Array, BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Pruning:
    """What a request asks of pruning. None means: as the bundle says.

    Attributes:
        enabled: False runs the plain model.
        threshold: keep a token when sigmoid(logit) is greater, 0..1.
        max_keep_ratio: at most this share of all visual tokens of the prompt, 0..1.
        min_keep: at least this many visual tokens.
        anchors: corners of the image to keep always, of ``tl tr bl br``; one image only.
        keep_masks: keep exactly these tokens instead of asking the scorer: per image a bool array
            (rows, columns) of the merged grid. The bundle's cap, minimum and anchors do not apply to it,
            only those given here.
    """

    enabled: bool = True
    threshold: float | None = None
    max_keep_ratio: float | None = None
    min_keep: int | None = None
    anchors: tuple[str, ...] | None = None
    keep_masks: Sequence[BoolArray] | None = None

    def __post_init__(self) -> None:
        """Refuses values that can never be meant.

        Raises:
            PruningError: a value is out of its range.
        """
        for name in ("threshold", "max_keep_ratio"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise PruningError(f"{name} must lie in 0..1, found {value}")
        if self.min_keep is not None and self.min_keep < 0:
            raise PruningError(f"min_keep must not be negative, found {self.min_keep}")
        for anchor in self.anchors or ():
            if anchor not in _ANCHORS:
                raise PruningError(f"unknown anchor {anchor!r}; anchors are {', '.join(_ANCHORS)}")
        if self.keep_masks is not None and self.threshold is not None:
            raise PruningError("a threshold has no meaning with keep_masks: no scores are computed")
        others = (self.threshold, self.max_keep_ratio, self.min_keep, self.anchors, self.keep_masks)
        if not self.enabled and any(value is not None for value in others):
            raise PruningError("pruning is switched off (enabled=False), so no other option of it can be given")


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        method: ``glimpse``, ``mask`` (the caller's keep masks) or ``none``.
        threshold: the threshold used, None where none was.
        max_keep_ratio: the cap used, None where none was.
        kept: visual tokens kept.
        total: visual tokens of the prompt.
        keep_masks: per image, (rows, columns) bool on the merged grid.
        scores: per image, (rows, columns) float32: sigmoid of the scorer's logit; empty when it did not run.
        reason: why nothing was pruned; None when something was.
        image_sizes: (width, height) of each image as given, in pixels.
    """

    method: str
    threshold: float | None
    max_keep_ratio: float | None
    kept: int
    total: int
    keep_masks: tuple[BoolArray, ...]
    scores: tuple[FloatArray, ...]
    reason: str | None
    image_sizes: tuple[tuple[int, int], ...] = ()

    @cached_property
    def boxes(self) -> tuple[tuple[Box, ...], ...]:
        """Kept regions per image as (left, top, right, bottom) in pixels of the image as given."""
        return tuple(kept_boxes(mask, size) for mask, size in zip(self.keep_masks, self.image_sizes, strict=True))

    @property
    def kept_ratio(self) -> float:
        """Kept share of all visual tokens; 1.0 for a prompt without images."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True)
class Rule:
    """A request merged with the bundle's defaults."""

    threshold: float
    max_keep_ratio: float | None
    min_keep: int | None
    anchors: tuple[str, ...]


def merge(request: Pruning, defaults: PruningDefaults) -> Rule:
    """Fills what the request leaves open; a keep mask takes no defaults."""
    if request.keep_masks is not None:
        return Rule(0.5, request.max_keep_ratio, request.min_keep, request.anchors or ())
    return Rule(
        defaults.threshold if request.threshold is None else request.threshold,
        defaults.max_keep_ratio if request.max_keep_ratio is None else request.max_keep_ratio,
        defaults.min_keep if request.min_keep is None else request.min_keep,
        defaults.anchors if request.anchors is None else request.anchors,
    )


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
    for anchor in rule.anchors:
        keep[_ANCHORS[anchor](*grids[0].merged)] = True
    return keep


def mask_logits(masks: Sequence[Array], grids: Sequence[Grid]) -> FloatArray:
    """Turns a caller's keep masks into logits of plus and minus infinity.

    Raises:
        PruningError: not one mask per image, or a mask of another shape.
    """
    if len(masks) != len(grids):
        raise PruningError(f"{len(masks)} keep masks for {len(grids)} images")
    for index, (mask, grid) in enumerate(zip(masks, grids, strict=True)):
        if np.shape(mask) != grid.merged:
            raise PruningError(
                f"keep mask {index} has shape {np.shape(mask)}, the image's merged grid is {grid.merged}"
            )
    flat = np.concatenate([np.asarray(mask, np.bool_).reshape(-1) for mask in masks])
    return np.where(flat, np.float32(np.inf), np.float32(-np.inf)).astype(np.float32)


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


def report_unpruned(grids: Sequence[Grid], reason: str) -> PruneReport:
    """Returns the report of a request that kept every visual token."""
    total = sum(grid.visual_tokens for grid in grids)
    masks = tuple(np.ones(grid.merged, np.bool_) for grid in grids)
    return PruneReport("none", None, None, total, total, masks, (), reason)


def report_pruned(
    request: Pruning, rule: Rule, logits: FloatArray, keep: BoolArray, grids: Sequence[Grid]
) -> PruneReport:
    """Returns the report of a selection."""
    scored = request.keep_masks is None
    kept, total = int(keep.sum()), len(keep)
    return PruneReport(
        method="glimpse" if scored else "mask",
        threshold=rule.threshold if scored else None,
        max_keep_ratio=rule.max_keep_ratio,
        kept=kept,
        total=total,
        keep_masks=per_image(keep, grids),
        scores=per_image(probability(logits), grids) if scored else (),
        reason="every visual token was kept" if kept == total else None,
    )


_ANCHORS: dict[str, Callable[[int, int], int]] = {
    "tl": lambda rows, columns: 0,
    "tr": lambda rows, columns: columns - 1,
    "bl": lambda rows, columns: (rows - 1) * columns,
    "br": lambda rows, columns: rows * columns - 1,
}
ANCHORS = tuple(_ANCHORS)
