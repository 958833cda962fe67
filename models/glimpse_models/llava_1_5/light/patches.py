"""Images to patches, in numpy and Pillow: what LLaVA and CLIPImageProcessor do, bit for bit."""

import math

import numpy as np
from PIL import Image

from glimpse_models.llava_1_5.light.record import ImageRules
from glimpse_runtime.inputs.grid import Grid, Patches, Window
from glimpse_runtime.inputs.levels import normalised_levels

LARGEST_PIXELS = 1 << 28
"""Of a padded or resized image: what is far longer than wide would otherwise take all memory there is."""


def square(image: Image.Image, rules: ImageRules) -> Image.Image:
    """Returns the square that the model sees, (image_size, image_size) pixels."""
    if rules.pad:
        image = _padded(image, rules.pad_colour)
    image = image.resize(_resized_size(image.size, rules), Image.Resampling.BICUBIC)
    left, top = (image.width - rules.image_size) // 2, (image.height - rules.image_size) // 2
    return image.crop((left, top, left + rules.image_size, top + rules.image_size))


def patchify(image: Image.Image, rules: ImageRules) -> Patches:
    """Pads, resizes (bicubic), crops, normalises and cuts one RGB image into patches, row by row of the grid.

    The values of a patch are ordered (channel, row, column).
    """
    side, patch, channels = rules.side, rules.patch_size, 3
    pixels = np.asarray(square(image, rules))[: side * patch, : side * patch]
    pixels = pixels.reshape(side, patch, side, patch, channels).transpose(0, 2, 4, 1, 3)
    pixels = pixels.reshape(side * side, channels, patch, patch)
    levels = normalised_levels(rules.mean, rules.std, rules.rescale_factor)
    out = np.empty(pixels.shape, np.float32)
    for channel in range(channels):
        out[:, channel] = levels[channel][pixels[:, channel]]
    return Patches(out.reshape(side * side, -1), Grid(side, side, 1))


def seen_window(size: tuple[int, int], rules: ImageRules) -> Window:
    """Returns the part of an image that the grid covers, in its own pixels; padding lies outside the image.

    Args:
        size: (width, height) of the image.
        rules: the image rules.
    """
    width, height = size
    left = top = 0
    if rules.pad:
        side = max(width, height)
        left, top = -((side - width) // 2), -((side - height) // 2)
        width = height = side
    resized_width, resized_height = _resized_size((width, height), rules)
    covered = rules.side * rules.patch_size
    across, down = width / resized_width, height / resized_height
    start_x, start_y = (resized_width - rules.image_size) // 2, (resized_height - rules.image_size) // 2
    return (
        left + round(start_x * across),
        top + round(start_y * down),
        left + round((start_x + covered) * across),
        top + round((start_y + covered) * down),
    )


def most_pixels(size: tuple[int, int], rules: ImageRules) -> int:
    """Returns the pixels of an image at its largest on the way to its patches."""
    if rules.pad:
        size = (max(size), max(size))
    return max(math.prod(size), math.prod(_resized_size(size, rules)))


def _padded(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def _resized_size(size: tuple[int, int], rules: ImageRules) -> tuple[int, int]:
    """(width, height): given, or with the shorter side as long as given and the shape kept."""
    if len(rules.resize_to) == 2:
        height, width = rules.resize_to
        return width, height
    (shortest,) = rules.resize_to
    width, height = size
    if width <= height:
        return shortest, int(shortest * height / width)
    return int(shortest * width / height), shortest
