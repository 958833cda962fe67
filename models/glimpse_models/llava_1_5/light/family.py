"""What the runtime needs of LLaVA-1.5: images to patches, positions."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from PIL import Image

from glimpse_models.llava_1_5.light.patches import LARGEST_PIXELS, most_pixels, patchify, seen_window
from glimpse_models.llava_1_5.light.positions import text_positions
from glimpse_models.llava_1_5.light.record import ImageRules, Record
from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.bundle.records import read_record
from glimpse_runtime.errors import BundleFormatError, ImageError, InputError
from glimpse_runtime.inputs.grid import Grid, Patches, Window
from glimpse_runtime.inputs.levels import sensible_levels

AXES = 1
WHOLE_IMAGES = (
    "the vision encoder of LLaVA-1.5 (CLIP) cannot encode a part of an image: its places are learned and every patch "
    "attends to all; encode the whole image (without cells), or crop it"
)


class Llava15:
    """The runtime's side of one bundle; see ``glimpse_runtime.inputs.family.Family``."""

    images_per_prompt = 1
    encodes_parts = False

    def __init__(self, record: Record) -> None:
        """Takes the manifest's ``family`` record."""
        self._rules = record.images

    def limited(self, max_pixels: int) -> "Llava15":
        """Returns itself: every image is seen at one size, which fewer pixels cannot hold."""
        side = self._rules.image_size
        if not isinstance(max_pixels, Integral) or max_pixels < side * side:
            raise InputError(
                f"max_pixels must be at least {side * side}, found {max_pixels!r}: this model sees every image at "
                f"{side} x {side} pixels, whatever its size; leave max_pixels away"
            )
        return self

    def at_most(self, visual_tokens: int) -> "Llava15":
        """Returns itself: every image has the same number of visual tokens, and fewer cannot be had."""
        there_are = self._rules.side**2
        if visual_tokens < there_are:
            raise InputError(
                f"max_visual_tokens is {visual_tokens}, but LLaVA-1.5 sees every image at one size, with {there_are} "
                "visual tokens; leave max_visual_tokens away, and let pruning drop some (max_keep_ratio=, "
                "--max-keep-ratio)"
            )
        return self

    def grid(self, image: Image.Image) -> Grid:
        """Returns the patch grid, the same for all images."""
        if most_pixels(image.size, self._rules) > LARGEST_PIXELS:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels is too long: made a square, it would have more "
                f"than {LARGEST_PIXELS} pixels; crop or shrink it first"
            )
        return Grid(self._rules.side, self._rules.side, 1)

    def seen(self, size: tuple[int, int]) -> Window:
        """Returns the part of an image that the grid covers, in its pixels."""
        return seen_window(size, self._rules)

    def patches(self, image: Image.Image) -> Patches:
        """Pads, resizes, crops, normalises and cuts one RGB image into patches."""
        return patchify(image, self._rules)

    def blank(self, visual_tokens: int) -> Patches:
        """Returns an image without content, of the one size there is."""
        rules = self._rules
        grid = Grid(rules.side, rules.side, 1)
        return Patches(np.zeros((grid.patches, 3 * rules.patch_size**2), np.float32), grid)

    def vision_inputs(self, grid: Grid, cells: IntArray | None = None) -> dict[str, Array]:
        """Returns nothing: the vision graph takes pixels alone, those of the whole image."""
        if cells is not None:
            raise InputError(WHOLE_IMAGES)
        return {}

    def windows(self, grid: Grid) -> IntArray:
        """Returns one window for all cells: every patch attends to all."""
        return np.zeros(grid.visual_tokens, np.int64)

    def score_inputs(self, grid: Grid, cells: IntArray) -> dict[str, Array]:
        """Returns nothing: the scorer has no windows."""
        return {}

    def positions(self, ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
        """Returns the (1, tokens) positions of a prompt."""
        return text_positions(ids, grids, image_token)


def read(manifest: Manifest, where: str) -> Llava15:
    """Reads and checks the family's part of a manifest.

    Raises:
        BundleFormatError: a key is missing or a value makes no sense.
    """
    record = read_record(Record, manifest.family, where, "family")
    wrong = _wrong(manifest, record.images)
    if wrong is not None:
        raise BundleFormatError(f"{where}: the values of {wrong} make no sense; export the model again")
    return Llava15(record)


def _wrong(manifest: Manifest, rules: ImageRules) -> str | None:
    """Names what makes no sense, None where all does."""
    if len(manifest.text.rope_sections) != AXES:
        return "text.rope_sections"
    if manifest.vision.merge_size != 1:
        return "vision.merge_size"
    sides = len(rules.resize_to) in (1, 2) and min(rules.resize_to, default=0) >= rules.image_size
    fits = 1 <= rules.patch_size == manifest.vision.patch_size and rules.patch_size <= rules.image_size
    held = rules.image_size**2 <= LARGEST_PIXELS
    levels = sensible_levels(rules.mean, rules.std, rules.rescale_factor)
    coloured = all(0 <= level <= 1 for level in rules.mean)
    return None if sides and fits and held and levels and (coloured or not rules.pad) else "family.images"
