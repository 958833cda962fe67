"""The ranges of all named dimensions, from the model's facts and the user's limits."""

import math

from glimpse_export.errors import UnsupportedError
from glimpse_export.model.architecture import Architecture, Vision
from glimpse_export.planning.options import ExportOptions
from glimpse_runtime.bundle.manifest import ImageRules, Profile
from glimpse_runtime.inputs.preprocess import LARGEST_ASPECT

_DEFAULT_CONTEXT = 4096
_TEXT_ROWS = 512
_USUAL_VISUAL_TOKENS = 256


def make_profiles(options: ExportOptions, architecture: Architecture, images: ImageRules) -> dict[str, Profile]:
    """Returns smallest, usual and largest length of every named dimension.

    Raises:
        UnsupportedError: the limits are too small for the model, or larger than it allows.
    """
    text, vision = architecture.text, architecture.vision
    context = options.max_context or min(text.max_positions, _DEFAULT_CONTEXT)
    if context > text.max_positions:
        raise UnsupportedError(f"--max-context {context} is more than the model's {text.max_positions} positions")
    smallest = -(-images.min_pixels // token_pixels(images))
    if context <= smallest:
        raise UnsupportedError(
            f"--max-context {context} leaves no room for text beside the smallest image ({smallest} visual tokens)"
        )
    largest = min(images.max_pixels // token_pixels(images), max(context - _TEXT_ROWS, context // 2))
    visual = options.max_visual_tokens or max(largest, smallest)
    if visual >= context:
        raise UnsupportedError(f"--max-visual-tokens {visual} leaves no room for text in --max-context {context}")
    if visual < smallest:
        raise UnsupportedError(
            f"--max-visual-tokens {visual} is less than the model's smallest image, {smallest} visual tokens "
            f"(min_pixels {images.min_pixels})"
        )
    usual, unit = min(_USUAL_VISUAL_TOKENS, visual), vision.merge_unit
    windows = _windows(vision, usual, visual)
    return {
        "patches": Profile(unit, usual * unit, visual * unit),
        "visual_tokens": Profile(1, usual, visual),
        "windows": windows,
        "window_slots": _times(windows, vision.window_tokens * unit),
        "token_slots": _times(windows, vision.window_tokens),
        "rows": Profile(1, min(usual + 64, context), context),
        "kept": Profile(1, min(usual // 8 + 64, context), context),
        "context": Profile(1, context, context),
    }


def token_pixels(images: ImageRules) -> int:
    """Returns the pixels of one visual token."""
    side: int = images.patch_size * images.merge_size
    return side * side


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


def _windows(vision: Vision, usual: int, largest: int) -> Profile:
    """The usual image is about square."""
    side, rows = math.isqrt(vision.window_tokens), math.isqrt(usual)
    square = -(-rows // side) * -(-(usual // rows) // side)
    most = most_windows(largest, side)
    return Profile(1, min(square, most), most)


def _times(profile: Profile, count: int) -> Profile:
    return Profile(profile.min * count, profile.opt * count, profile.max * count)
