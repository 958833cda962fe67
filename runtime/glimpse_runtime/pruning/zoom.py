"""Zooming: from the scores of a small copy of an image to the native visual tokens that are worth encoding.

The way is the project's own, near to AwaRes (arXiv 2603.16932) and to "MLLMs Know Where to Look" (arXiv 2502.17422),
but without a crop: what is chosen keeps its native places.
"""

from dataclasses import dataclass, replace

import numpy as np

from glimpse_runtime.arrays import Array, BoolArray, FloatArray
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.rule import probability, select_best

SMALLEST_TOKENS = 256
"""An image of at most so many visual tokens is encoded whole: its copy would show too little."""
LARGEST_AREA = 0.6
"""Where more than this share of an image is worth encoding, it is encoded whole."""
LEAST_SCOUTED = 4
"""Tokens of the copy that are followed whatever their score."""


@dataclass(frozen=True)
class ZoomReport:
    """What zooming did.

    Attributes:
        share: share of the image's pixels that the copy had, as asked.
        reason: why the image was encoded whole; None when it was zoomed into.
        likely: (rows, columns) bool of the copy's merged grid: the places whose scores were followed; None when the
            copy was not looked at.
        scores: (rows, columns) float32 of the copy's merged grid: how likely the answer needs a place, 0..1; None when
            the copy was not looked at.
        best: the highest of them; None when there are none.
        mask: (rows, columns) bool of the native merged grid: the places worth encoding; None when there are no scores.
        patches_share: patches encoded, those of the copy included, to the patches of the whole image; 0 where it had
            been encoded before.
    """

    share: float
    reason: str | None
    likely: BoolArray | None = None
    scores: FloatArray | None = None
    best: float | None = None
    mask: BoolArray | None = None
    patches_share: float = 1.0

    @property
    def zoomed(self) -> bool:
        """Whether a part of the image was encoded alone."""
        return self.reason is None


def choose(logits: FloatArray, copy: Grid, native: Grid, pruning: Pruning) -> ZoomReport:
    """Chooses the native places worth encoding, or says why all are.

    Args:
        logits: (visual tokens of the copy,) the scorer's deciding row.
        copy: the patch grid of the copy.
        native: the patch grid of the image.
        pruning: its ``zoom*`` options.
    """
    assert pruning.zoom is not None
    scores = probability(logits)
    found = scores > pruning.zoom_threshold
    if found.sum() < LEAST_SCOUTED:
        found = select_best(logits, LEAST_SCOUTED)
    mask = dilated(enlarged(found.reshape(copy.merged), native.merged), pruning.zoom_margin)
    if pruning.zoom_most is not None:
        mask &= _best_places(
            np.where(mask, enlarged(scores.reshape(copy.merged), native.merged), -1), pruning.zoom_most
        )
    best, area = float(scores.max()), float(mask.mean())
    spent = copy.patches / native.patches
    likely, shown = found.reshape(copy.merged), scores.reshape(copy.merged)
    seen = ZoomReport(pruning.zoom, None, likely, shown, best, mask, spent + area)
    if pruning.zoom_most is not None:
        return seen
    if best < pruning.zoom_gate:
        reason = f"nothing of the small copy was likely enough ({best:.2f}, the gate is {pruning.zoom_gate:g})"
        return replace(seen, reason=reason, patches_share=spent + 1)
    if area > LARGEST_AREA:
        return replace(seen, reason=f"{area:.0%} of the image is worth encoding", patches_share=spent + 1)
    return seen


def _best_places(scores: FloatArray, share: float) -> BoolArray:
    """Returns a mask of the best places, so many of all, one at least."""
    most = max(1, int(share * scores.size))
    return select_best(scores.reshape(-1), most).reshape(scores.shape)


def too_small(grid: Grid) -> str | None:
    """Says why an image is not looked at as a small copy first, None where it is."""
    tokens = grid.visual_tokens
    return None if tokens > SMALLEST_TOKENS else f"the image has {tokens} visual tokens, zooming needs more than 256"


def enlarged(mask: Array, shape: tuple[int, int]) -> Array:
    """Returns a mask, or scores, on a finer grid of the same picture: each cell is what the cell at its middle was."""
    rows, columns = (
        ((np.arange(fine) + 0.5) * coarse / fine).astype(np.int64).clip(max=coarse - 1)
        for fine, coarse in zip(shape, mask.shape, strict=True)
    )
    finer: Array = mask[rows][:, columns]
    return finer


def dilated(mask: BoolArray, margin: int) -> BoolArray:
    """Returns a mask with ``margin`` cells more around everything, corners included."""
    margin = min(margin, max(mask.shape))  # more is everything
    if not margin:
        return mask
    padded, (rows, columns) = np.pad(mask, margin), mask.shape
    down = np.logical_or.reduce([padded[step : step + rows] for step in range(2 * margin + 1)])
    grown: BoolArray = np.logical_or.reduce([down[:, step : step + columns] for step in range(2 * margin + 1)])
    return grown
