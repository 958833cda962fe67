"""How to see as much as possible and still give the first token within so many milliseconds."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.errors import ImageError, InputError
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.prompt import Prompt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.rule import merge
from glimpse_runtime.pruning.zoom import SMALLEST_TOKENS
from glimpse_runtime.session.costs import FIRST_STAGE, LARGEST_TOKENS, Costs, Work
from glimpse_runtime.session.reading import Reading
from glimpse_runtime.session.request import BudgetReport, Request

KEEP_RATIOS = (0.5, 0.25, 0.11)
PRE_KEEP = 0.5
ZOOM, ZOOM_SHARES = 0.25, (0.5, 0.3, 0.15)
_SMALLER = 0.85


@dataclass(frozen=True)
class _Option:
    way: str
    pruning: Pruning
    max_visual_tokens: int | None
    grids: tuple[Grid, ...]


class Planner:
    """Chooses the way of one request."""

    def __init__(self, costs: Costs, family: Family, manifest: Manifest) -> None:
        """Takes what is known before a request.

        Args:
            costs: of this machine and bundle.
            family: the model's, with the limits of the session.
            manifest: the bundle's.
        """
        self._costs, self._family = costs, family
        self._defaults, self._glimpse_rows = manifest.pruning, manifest.glimpse.length

    def choose(self, request: Request, pictures: Sequence[Image.Image], text_tokens: int) -> None:
        """Writes into a request how it is answered within its budget.

        Args:
            request: the options; those that the caller gave stay.
            pictures: the images as given.
            text_tokens: tokens of the prompt that are not visual.

        Raises:
            InputError: nothing is fast enough; the message says the least budget that is.
        """
        assert request.budget_ms is not None
        spent_ms, least_ms = (time.perf_counter() - request.start_s) * 1e3, math.inf
        for option in self._options(request, pictures):
            predicted_ms = spent_ms + self._costs.predicted_ms(self._work(option, pictures, text_tokens))
            least_ms = min(least_ms, predicted_ms)
            if predicted_ms <= request.budget_ms:
                pruning = option.pruning
                request.pruning, request.max_visual_tokens = pruning, option.max_visual_tokens
                request.budget = BudgetReport(
                    request.budget_ms,
                    predicted_ms,
                    option.way,
                    option.max_visual_tokens,
                    pruning.max_keep_ratio,
                    pruning.pre_keep,
                    pruning.zoom_most,
                )
                return
        raise InputError(
            f"the first token cannot come within {request.budget_ms:g} ms here: the least is about "
            f"{math.ceil(least_ms)} ms; give budget_ms={math.ceil(1.05 * least_ms)} (--budget-ms) or more, or fewer "
            "images and a shorter prompt"
        )

    def _options(self, request: Request, pictures: Sequence[Image.Image]) -> Iterator[_Option]:
        """Yields the ways from the one that sees most."""
        asked, limit = request.pruning, request.max_visual_tokens
        whole = tuple(map(request.seen_by(self._family).grid, pictures))
        largest = max((grid.visual_tokens for grid in whole), default=0)
        harder = list(_harder(asked))
        if largest <= LARGEST_TOKENS:
            for way, pruning in (("full", asked), *harder):
                yield _Option(way, pruning, limit, whole)
            if self._family.encodes_parts and len(whole) == 1 and largest > SMALLEST_TOKENS and asked == Pruning():
                for share in ZOOM_SHARES:
                    yield _Option("zoom", Pruning(zoom=ZOOM, zoom_most=share), limit, whole)
        hardest = harder[-1][1] if harder else asked
        tokens = min(largest, LARGEST_TOKENS + 1)
        least = (merge(hardest, self._defaults).min_keep or 0) if asked.enabled else 0
        while tokens > 1 and asked.keep_masks is None:
            tokens = int(tokens * _SMALLER)
            try:
                grids = tuple(map(self._family.at_most(tokens).grid, pictures))
            except ImageError:
                continue  # too long a picture for so few
            except InputError:
                return  # a model that sees all images at one size
            if sum(grid.visual_tokens for grid in grids) < least:
                return
            yield _Option("smaller", hardest, tokens, grids)

    def _work(self, option: _Option, pictures: Sequence[Image.Image], text: int) -> Work:
        pruning, grids = option.pruning, option.grids
        total = sum(grid.visual_tokens for grid in grids)
        patches = tuple(grid.patches for grid in grids)
        pixels = sum(picture.width * picture.height for picture in pictures)
        first, last = text + self._glimpse_rows, text
        if pruning.zoom is not None and pruning.zoom_most is not None:
            copy, part = math.ceil(pruning.zoom * total), math.ceil(pruning.zoom_most * total)
            (all_patches,) = patches
            seen = (math.ceil(pruning.zoom * all_patches), math.ceil(pruning.zoom_most * all_patches))
            return Work(seen, 2 * pixels, total, (first + copy, last + part), last + part, (copy,), False)
        rule = merge(pruning, self._defaults) if pruning.enabled else None
        entered = total if pruning.pre_keep is None else math.ceil(pruning.pre_keep * total)
        cap = 1.0 if rule is None or rule.max_keep_ratio is None else rule.max_keep_ratio
        kept = min(entered, max(math.ceil(cap * total), rule.min_keep or 0 if rule else 0))
        scored: tuple[int, ...] = (entered,) if pruning.enabled and total else ()
        lower: tuple[int, ...] = (first + entered,)
        if pruning.zoom is not None:  # the gate may send it back to be encoded whole
            share, pixels = pruning.zoom, 2 * pixels
            patches += (math.ceil(share * sum(patches)),)
            lower, scored = (*lower, first + math.ceil(share * total)), (*scored, math.ceil(share * total))
        return Work(patches, pixels, total, lower, last + kept, scored, pruning.first is not None)


def _harder(asked: Pruning) -> Iterator[tuple[str, Pruning]]:
    """Yields the caller's options with smaller shares where the caller gave none."""
    if not asked.enabled or asked.keep_masks is not None or asked.max_keep_ratio is not None:
        return
    if asked.zoom is not None:
        return
    for ratio in KEEP_RATIOS:
        yield "pruned", dataclasses.replace(asked, max_keep_ratio=ratio)
    if asked.pre is None and asked.method == "glimpse":
        for ratio in KEEP_RATIOS[1:]:
            yield (
                "two-stage",
                dataclasses.replace(asked, max_keep_ratio=ratio, pre=FIRST_STAGE, pre_keep=PRE_KEEP),
            )


def as_it_fits(
    request: Request, reading: Reading, costs: Costs | None, prompt: Prompt, pictures: Sequence[Image.Image]
) -> Reading:
    """Writes into a request how it is answered within its budget, and returns how its images are read then.

    Args:
        request: the options.
        reading: how the session reads.
        costs: of this machine and bundle; None where nobody has measured them.
        prompt: of the request as it was asked.
        pictures: its images as given.

    Raises:
        InputError: nothing is fast enough, or what is cannot be known.
    """
    if costs is None:
        raise InputError(
            "a budget needs the costs of this bundle on this machine, which are measured once: "
            'run glimpse-run --calibrate "Hello" (with the --bundle, --device and --threads that are meant), or '
            "load(calibrate=True)"
        )
    text_tokens = len(prompt.ids) - sum(grid.visual_tokens for grid in prompt.grids)
    Planner(costs, reading.family, reading.manifest).choose(request, pictures, text_tokens)
    return reading.as_asked(request)
