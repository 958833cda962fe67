"""Images to patches, in numpy and Pillow: what Qwen2VLImageProcessor (the slow one) does, bit for bit."""

import bisect
import dataclasses
import math

import numpy as np
from PIL import Image

from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_runtime.errors import ImageError
from glimpse_runtime.inputs.grid import Grid, Patches
from glimpse_runtime.inputs.levels import normalised_levels

LARGEST_ASPECT = 200


def smart_resize(height: int, width: int, rules: ImageRules) -> tuple[int, int]:
    """Returns the (height, width) in pixels that the model sees.

    Both are multiples of patch * merge, their product lies within the rules' pixel limits where the aspect allows
    it. Follows ``smart_resize`` of Qwen2-VL's image processor, with Python's rounding to even.

    Raises:
        ImageError: one side is more than 200 times the other.
    """
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        raise ImageError(
            f"an image of {width} x {height} pixels is too long: one side may be {LARGEST_ASPECT} times the other; "
            "cut it into several, or pad it"
        )
    factor = rules.patch_size * rules.merge_size
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > rules.max_pixels:
        shrink = math.sqrt(height * width / rules.max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < rules.min_pixels:
        grow = math.sqrt(rules.min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def fitted(height: int, width: int, rules: ImageRules, most_tokens: int) -> ImageRules:
    """Returns the rules by which an image has at most so many visual tokens.

    ``max_pixels`` is what so many tokens have, as for everybody who gives Qwen's image processor a limit. A small image
    is enlarged up to ``min_pixels``, and sides are rounded up then: where that leads above the limit, ``min_pixels`` is
    the largest number that does not.

    Raises:
        ImageError: whatever the limit in pixels, an image of this shape has more tokens.
    """
    limit = min(rules.max_pixels, most_tokens * rules.token_pixels)

    def tokens(min_pixels: int, max_pixels: int = limit) -> int:
        smaller = dataclasses.replace(rules, min_pixels=min_pixels, max_pixels=max_pixels)
        return math.prod(smart_resize(height, width, smaller)) // rules.token_pixels

    least, most = min(rules.token_pixels, rules.min_pixels), min(rules.min_pixels, limit)
    if tokens(least) > most_tokens:
        needed = bisect.bisect_left(
            range(most_tokens + 1, LARGEST_ASPECT), True, key=lambda n: tokens(least, n * rules.token_pixels) <= n
        )
        raise ImageError(
            f"an image of {width} x {height} pixels is too long for {most_tokens} visual tokens; give "
            f"max_visual_tokens={most_tokens + 1 + needed} or more, or crop it"
        )
    # Tokens grow with min_pixels: the first that are too many lie behind the last that fit.
    beyond = bisect.bisect_right(range(least, most + 1), most_tokens, key=tokens)
    return dataclasses.replace(rules, min_pixels=least + beyond - 1, max_pixels=limit)


def patch_grid(image: Image.Image, rules: ImageRules) -> Grid:
    """Returns the patch grid that ``patchify`` will give, without touching the pixels."""
    height, width = smart_resize(image.height, image.width, rules)
    return Grid(height // rules.patch_size, width // rules.patch_size, rules.merge_size)


def patchify(image: Image.Image, rules: ImageRules) -> Patches:
    """Resizes (bicubic), normalises and cuts one RGB image into patches."""
    grid = patch_grid(image, rules)
    size = (grid.columns * rules.patch_size, grid.rows * rules.patch_size)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    patch, merge, channels = rules.patch_size, rules.merge_size, 3
    pixels = np.asarray(resized).reshape(
        grid.rows // merge, merge, patch, grid.columns // merge, merge, patch, channels
    )
    pixels = pixels.transpose(0, 3, 1, 4, 6, 2, 5).reshape(grid.patches, channels, patch, patch)
    levels = normalised_levels(rules.mean, rules.std, rules.rescale_factor)
    out = np.empty((grid.patches, channels, rules.temporal_patch_size, patch, patch), np.float32)
    for channel in range(channels):
        out[:, channel] = levels[channel][pixels[:, channel]][:, None]
    return Patches(out.reshape(grid.patches, -1), grid)
