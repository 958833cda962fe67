"""What pruning did, for the answer: never silent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray
from glimpse_runtime.inputs.grid import Grid, Window
from glimpse_runtime.pruning.boxes import Box, kept_boxes
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.rule import Rule, per_image, probability
from glimpse_runtime.pruning.zoom import ZoomReport


@dataclass(frozen=True)
class StreamReport:
    """How the scene of a stream's frame was made.

    Attributes:
        changed_share: share of its visual tokens that were computed for it, 0..1; 1 for a full pass.
        reused: how many of them are those of earlier frames.
        age: frames since the last full pass; 0 where this was one.
        entered: (rows, columns) bool: what entered layer 0 by ``Pruning.follow``; None where all did.
    """

    changed_share: float
    reused: int
    age: int
    entered: BoolArray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        method: who chose, by its name; ``mask`` is the caller's keep masks, ``none`` nobody.
        threshold: the threshold used, None where none was.
        max_keep_ratio: the cap used, None where none was.
        kept: visual tokens kept.
        total: visual tokens of the prompt.
        keep_masks: per image, (rows, columns) bool on the merged grid.
        scores: per image, (rows, columns) float32, 0 for tokens that a first stage dropped: sigmoid of the logit of
            an adaptive method, the score itself of another; empty for a method that gives a mask.
        reason: why nothing was pruned; None when something was.
        image_sizes: (width, height) of each image as given, in pixels.
        seen: the part of each image that its grid covers, (left, top, right, bottom) in pixels of the image.
        pre: who chose what enters layer 0 as a first stage; None without one.
        pre_kept: visual tokens that the first stage kept; None without one.
        pre_masks: per image, (rows, columns) bool: what they were; empty without a first stage.
        zoom: what zooming did, whose method is called ``zoom``; None where nobody asked for it.
        stream: how the scene was made of a stream's frame; None for other images.
        encoded_masks: per image, (rows, columns) bool: what the vision encoder encoded; empty where it was all.
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
    seen: tuple[Window, ...] = ()
    pre: str | None = None
    pre_kept: int | None = None
    pre_masks: tuple[BoolArray, ...] = ()
    encoded_masks: tuple[BoolArray, ...] = ()
    zoom: ZoomReport | None = None
    stream: StreamReport | None = None

    @cached_property
    def boxes(self) -> tuple[tuple[Box, ...], ...]:
        """Kept regions per image as (left, top, right, bottom) in pixels of the image as given."""
        places = zip(self.keep_masks, self.image_sizes, self.seen, strict=True)
        return tuple(kept_boxes(mask, size, window) for mask, size, window in places)

    @property
    def kept_ratio(self) -> float:
        """Kept share of all visual tokens; 1.0 for a prompt without images."""
        return self.kept / self.total if self.total else 1.0


def report_unpruned(grids: Sequence[Grid], reason: str, entered: BoolArray | None = None) -> PruneReport:
    """Returns the report of a request that kept every visual token there was.

    Args:
        grids: the images.
        reason: why nothing was pruned.
        entered: (visual tokens,) which of them there were; None is all.
    """
    total = sum(grid.visual_tokens for grid in grids)
    keep = np.ones(total, np.bool_) if entered is None else entered
    return PruneReport("none", None, None, int(keep.sum()), total, per_image(keep, grids) if grids else (), (), reason)


def with_encoded(report: PruneReport, encoded: Sequence[BoolArray | None]) -> PruneReport:
    """Returns a report that says what was encoded, where that is not everything.

    Args:
        report: of the request.
        encoded: per image, (visual tokens,) bool, None for all.
    """
    if all(mask is None for mask in encoded):
        return report
    pairs = zip(encoded, report.keep_masks, strict=True)
    masks = (np.ones_like(keep) if mask is None else mask.reshape(keep.shape) for mask, keep in pairs)
    return replace(report, encoded_masks=tuple(masks))


def report_pruned(
    pruning: Pruning, rule: Rule, scores: FloatArray | None, keep: BoolArray, entered: BoolArray, grids: Sequence[Grid]
) -> PruneReport:
    """Returns the report of a selection.

    Args:
        pruning: what was asked.
        rule: its numbers, merged with the bundle's.
        scores: (visual tokens,) what the method gave; None for a mask.
        keep: (visual tokens,) what stayed.
        entered: (visual tokens,) what entered layer 0.
        grids: the images.
    """
    masked, adaptive = pruning.keep_masks is not None, pruning.pruner.adaptive
    kept, total, two_stages = int(keep.sum()), len(keep), pruning.pre is not None
    shown = () if masked or scores is None else per_image(probability(scores) if adaptive else scores, grids)
    return PruneReport(
        method="mask" if masked and pruning.method != "oracle" else pruning.method,
        threshold=rule.threshold if adaptive and not masked else None,
        max_keep_ratio=rule.max_keep_ratio,
        kept=kept,
        total=total,
        keep_masks=per_image(keep, grids),
        scores=shown,
        reason="every visual token was kept" if kept == total else None,
        pre=pruning.pre,
        pre_kept=int(entered.sum()) if two_stages else None,
        pre_masks=per_image(entered, grids) if two_stages else (),
    )
