"""How large images may be, and how many attention windows they then have."""

import dataclasses
import math

from glimpse_models.qwen2_5_vl.heavy.architecture import QwenVision
from glimpse_models.qwen2_5_vl.light.patches import LARGEST_ASPECT
from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_runtime.bundle.manifest import Profile

UPDATED_PATCHES, UPDATED_TOKENS = "updated_patches", "updated_tokens"
"""Names of the dimensions of what an update of an encoded image runs."""


def visual_tokens(images: ImageRules) -> tuple[int, int]:
    """Returns the visual tokens of the smallest and of the largest image."""
    return -(-images.min_pixels // images.token_pixels), images.max_pixels // images.token_pixels


def fitting(images: ImageRules, visual_tokens: int) -> ImageRules:
    """Returns the rules with ``max_pixels`` such that larger images are shrunk to what the profile takes.

    Images within the new limit are prepared as before.
    """
    return dataclasses.replace(images, max_pixels=min(images.max_pixels, visual_tokens * images.token_pixels))


def window_profiles(vision: QwenVision, usual: int, largest: int) -> dict[str, Profile]:
    """Returns the ranges of windows, of slots in them for patches and for visual tokens, and of what updates run."""
    windows, unit = _windows(vision, usual, largest), vision.merge_unit
    return {
        UPDATED_TOKENS: Profile(1, usual, largest),
        UPDATED_PATCHES: Profile(unit, usual * unit, largest * unit),
        "windows": windows,
        "window_slots": _times(windows, vision.window_tokens * vision.merge_unit),
        "token_slots": _times(windows, vision.window_tokens),
    }


def most_windows(visual_tokens: int, side: int) -> int:
    """Returns how many attention windows an image may have.

    Long strips have most: their windows are mostly empty. An image's longer side is at most ``LARGEST_ASPECT`` times
    the shorter before both are rounded to whole visual tokens, which takes less than one token from the shorter.

    Args:
        visual_tokens: of the largest image.
        side: rows and columns of a window, in visual tokens.
    """
    return max(
        -(-rows // side) * -(-min(visual_tokens // rows, LARGEST_ASPECT * (rows + 1)) // side)
        for rows in range(1, math.isqrt(visual_tokens) + 1)
    )


def _windows(vision: QwenVision, usual: int, largest: int) -> Profile:
    """The usual image is about square."""
    side, rows = vision.window_side, math.isqrt(usual)
    square = -(-rows // side) * -(-(usual // rows) // side)
    most = most_windows(largest, side)
    return Profile(1, min(square, most), most)


def _times(profile: Profile, count: int) -> Profile:
    return Profile(profile.min * count, profile.opt * count, profile.max * count)
