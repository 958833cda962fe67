"""Looks at a small copy of the image first, so that only the places that matter are encoded at full resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.prompt import Prompt, place
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport
from glimpse_runtime.pruning.zoom import LEAST_SCOUTED, ZoomReport, choose, too_small
from glimpse_runtime.session.request import Request
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.pipeline import Pipeline


@dataclass(frozen=True)
class Zoom:
    """What the small copy said.

    Attributes:
        request: the request as it is answered from what is encoded.
        report: what zooming did; None where nobody asked for it.
        cells: (n,) ascending places to encode of the one image, in a list; None is all of every image.
    """

    request: Request
    report: ZoomReport | None = None
    cells: list[IntArray | None] | None = None

    def told(self, report: PruneReport) -> PruneReport:
        """Returns the report of the answer with that of zooming in it."""
        if self.report is None:
            return report
        if self.cells is None:
            return replace(report, zoom=self.report)
        return replace(report, method="zoom", reason=None, zoom=self.report)


def look(
    pipeline: Pipeline, family: Family, prompt: Prompt, pictures: Sequence[Image.Image] | None, request: Request
) -> Zoom:
    """Looks at a small copy of a prompt's image where the request asks for it.

    What is chosen is answered from as it is, without a second glimpse; an image that is encoded whole is pruned as the
    request says.

    Args:
        pipeline: the loaded graphs.
        family: the model's, with the limits of the session.
        prompt: the prompt with the native grids.
        pictures: its images; None where they were encoded before.
        request: the options; its stats get the stages ``scout_*`` and ``zoom_select``.

    Raises:
        Interrupted: the request has ended.
    """
    pruning = request.pruning
    if pruning.zoom is None:
        return Zoom(request)
    native = replace(request, pruning=pruning.without_zoom())
    reason = _not_looked_at(prompt, pictures)
    if reason is not None or pictures is None:
        return Zoom(native, ZoomReport(pruning.zoom, reason, patches_share=1.0 if pictures else 0.0))
    (grid,), (picture,) = prompt.grids, pictures
    stats, interrupt = request.stats, request.interrupt
    pixels = grid.patches * pipeline.manifest.vision.patch_size**2
    least = LEAST_SCOUTED * pixels // grid.visual_tokens
    small = family.limited(max(int(pruning.zoom * pixels), least))
    with stats.stage("preprocess"):
        patches = interrupt.run(lambda: small.patches(picture))
    visual = [pipeline.encode(patches, stats, interrupt, stage="scout_vision")]
    interrupt.check()
    logits = pipeline.scout(_entry(prompt, patches.grid, pipeline, family), visual, stats, interrupt)
    interrupt.check()
    with stats.stage("zoom_select"):
        report = choose(logits, patches.grid, grid, pruning)
    if report.mask is None or not report.zoomed:
        return Zoom(native, report)
    return Zoom(replace(request, pruning=Pruning(enabled=False)), report, [np.flatnonzero(report.mask)])


def _not_looked_at(prompt: Prompt, pictures: Sequence[Image.Image] | None) -> str | None:
    """Says why there is no small copy to look at, None where there is."""
    if len(prompt.grids) != 1:
        return f"zooming takes one image, the prompt has {len(prompt.grids)}"
    if pictures is None:
        return "the image was encoded before the question"
    return too_small(prompt.grids[0])


def _entry(prompt: Prompt, copy: Grid, pipeline: Pipeline, family: Family) -> Entry:
    """Returns the same prompt about the copy."""
    token = pipeline.manifest.tokens.image
    places = np.flatnonzero(prompt.ids == token)
    words = np.full(copy.visual_tokens, token, prompt.ids.dtype)
    ids = np.concatenate([prompt.ids[: places[0]], words, prompt.ids[places[-1] + 1 :]])
    return Entry.of(place(ids, (copy,), token, family), token)
