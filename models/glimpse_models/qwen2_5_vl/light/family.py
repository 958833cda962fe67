"""What the runtime needs of Qwen2.5-VL: images to patches, positions, windows."""

import dataclasses
import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from PIL import Image

from glimpse_models.qwen2_5_vl.light.patches import fitted, patch_grid, patchify
from glimpse_models.qwen2_5_vl.light.positions import mrope_positions, vision_rope
from glimpse_models.qwen2_5_vl.light.record import ImageRules, Record
from glimpse_models.qwen2_5_vl.light.windows import patch_windows, token_windows
from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.bundle.manifest import LARGEST_ROPE_THETA, Manifest
from glimpse_runtime.bundle.records import read_record
from glimpse_runtime.errors import BundleFormatError, InputError
from glimpse_runtime.inputs.grid import Grid, Patches, Window
from glimpse_runtime.inputs.levels import sensible_levels

AXES = 3
PROFILES = ("windows", "window_slots", "token_slots")


class Qwen25VL:
    """The runtime's side of one bundle; see ``glimpse_runtime.inputs.family.Family``."""

    images_per_prompt = None
    encodes_parts = True

    def __init__(self, record: Record, most_tokens: int | None = None) -> None:
        """Takes the manifest's ``family`` record, and the most visual tokens that an image may have."""
        self._record = record
        self._most_tokens = most_tokens

    def limited(self, max_pixels: int) -> "Qwen25VL":
        """Returns the same with images of at most so many pixels."""
        rules = self._record.images
        if not isinstance(max_pixels, Integral) or max_pixels < rules.token_pixels:
            raise InputError(
                f"max_pixels must be at least {rules.token_pixels} (one visual token), found {max_pixels!r}"
            )
        upper = min(rules.max_pixels, int(max_pixels))
        smaller = dataclasses.replace(rules, min_pixels=min(rules.min_pixels, upper), max_pixels=upper)
        return Qwen25VL(dataclasses.replace(self._record, images=smaller), self._most_tokens)

    def at_most(self, visual_tokens: int) -> "Qwen25VL":
        """Returns the same with images of at most so many visual tokens."""
        most = visual_tokens if self._most_tokens is None else min(visual_tokens, self._most_tokens)
        return Qwen25VL(self._record, most)

    def grid(self, image: Image.Image) -> Grid:
        """Returns the patch grid that ``patches`` will give, without touching the pixels."""
        return patch_grid(image, self._rules(image))

    def seen(self, size: tuple[int, int]) -> Window:
        """Returns the whole image, which the grid covers."""
        return 0, 0, *size

    def patches(self, image: Image.Image) -> Patches:
        """Resizes, normalises and cuts one RGB image into patches."""
        return patchify(image, self._rules(image))

    def blank(self, visual_tokens: int) -> Patches:
        """Returns an image without content, about square, of at most so many visual tokens."""
        rules, side = self._record.images, math.isqrt(visual_tokens)
        grid = Grid(side * rules.merge_size, visual_tokens // side * rules.merge_size, rules.merge_size)
        width = 3 * rules.temporal_patch_size * rules.patch_size**2
        return Patches(np.zeros((grid.patches, width), np.float32), grid)

    def vision_inputs(self, grid: Grid, cells: IntArray | None = None) -> dict[str, Array]:
        """Returns what the vision graph takes beside pixels: rotary table and windows of the patches.

        Patches that are not encoded are not there for the others: these keep their places and windows.
        """
        record = self._record
        cos, sin = vision_rope(grid, record.head_dim, record.rope_theta)
        if cells is not None:
            rows = grid.patches_of(cells)
            cos, sin = cos[rows], sin[rows]
        windows = patch_windows(grid, record.window_size, record.images.patch_size, cells)
        return {"cos": cos, "sin": sin, **windows.inputs()}

    def windows(self, grid: Grid) -> IntArray:
        """Returns the (visual tokens,) number of the window that each cell lies in."""
        windows = token_windows(grid, self._record.window_size, self._record.images.patch_size)
        numbers: IntArray = windows.scatter // windows.keys.shape[1]
        return numbers

    def score_inputs(self, grid: Grid, cells: IntArray) -> dict[str, Array]:
        """Returns what the scorer takes of the family: the vision encoder's windows over the tokens that entered."""
        record = self._record
        return dict(token_windows(grid, record.window_size, record.images.patch_size, cells).inputs())

    def positions(self, ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
        """Returns the (3, tokens) time, height and width positions of a prompt."""
        return mrope_positions(ids, grids, image_token)

    def _rules(self, image: Image.Image) -> ImageRules:
        rules = self._record.images
        return rules if self._most_tokens is None else fitted(image.height, image.width, rules, self._most_tokens)


def read(manifest: Manifest, where: str) -> Qwen25VL:
    """Reads and checks the family's part of a manifest.

    Raises:
        BundleFormatError: a key is missing or a value makes no sense.
    """
    record = read_record(Record, manifest.family, where, "family")
    for name in PROFILES:
        if name not in manifest.profiles:
            raise BundleFormatError(f"{where}: profile {name!r} is missing; export the model again")
    wrong = _wrong(manifest, record)
    if wrong is not None:
        raise BundleFormatError(f"{where}: the values of {wrong} make no sense; export the model again")
    return Qwen25VL(record)


def _wrong(manifest: Manifest, record: Record) -> str | None:
    """Names what makes no sense, None where all does."""
    rules, vision = record.images, manifest.vision
    if len(manifest.text.rope_sections) != AXES:
        return "text.rope_sections"
    if (rules.patch_size, rules.merge_size) != (vision.patch_size, vision.merge_size):
        return "family.images"
    if record.window_size < vision.patch_size * vision.merge_size or record.head_dim < 4 or record.head_dim % 4:
        return "family"
    if not 1 <= record.rope_theta <= LARGEST_ROPE_THETA:
        return "family.rope_theta"
    return None if _sensible(rules) else "family.images"


def _sensible(rules: ImageRules) -> bool:
    pixels = rules.temporal_patch_size >= 1 and 1 <= rules.min_pixels <= rules.max_pixels
    return pixels and sensible_levels(rules.mean, rules.std, rules.rescale_factor)
