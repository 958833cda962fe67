"""A picture of what was kept: kept regions as they are and outlined, the rest dark and grey."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from glimpse_runtime.arrays import BoolArray, ByteArray
from glimpse_runtime.errors import InputError
from glimpse_runtime.files.atomic import open_atomic
from glimpse_runtime.inputs.grid import Window
from glimpse_runtime.pruning.report import PruneReport

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_OUTLINE = (255, 196, 0)
_DARK = 0.30
_GAP_PIXELS = 8


def draw(image: Image.Image, keep: BoolArray, window: Window | None = None) -> Image.Image:
    """Returns the image with pruned regions darkened, and what the model does not see.

    Args:
        image: the RGB image as the caller gave it.
        keep: (rows, columns) on the merged grid.
        window: the part of the image that the grid covers; None is all of it.
    """
    width, height = image.size
    left, top, right, bottom = window or (0, 0, width, height)
    rows = (np.arange(height) - top) * keep.shape[0] // (bottom - top)
    columns = (np.arange(width) - left) * keep.shape[1] // (right - left)
    inside = ((rows >= 0) & (rows < keep.shape[0]))[:, None] & (columns >= 0) & (columns < keep.shape[1])
    kept = keep[rows.clip(0, keep.shape[0] - 1)][:, columns.clip(0, keep.shape[1] - 1)] & inside
    pixels = np.asarray(image).astype(np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    out: ByteArray = np.where(kept[..., None], pixels, (0.5 * pixels + 0.5 * grey) * _DARK).astype(np.uint8)
    out[_border(kept, max(1, min(width, height) // 250))] = _OUTLINE
    return Image.fromarray(out)


def sheet(images: Sequence[Image.Image], report: PruneReport) -> Image.Image:
    """Returns what was kept of every image in one row; of a zoom also where its copy looked, and the choice."""
    pictures = []
    zoom = report.zoom
    for image, keep, window in zip(images, report.keep_masks, report.seen, strict=True):
        if zoom is not None and zoom.likely is not None and zoom.mask is not None:
            pictures += [draw(image, zoom.likely, window), draw(image, zoom.mask, window)]
        pictures.append(draw(image, keep, window))
    return side_by_side(pictures)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Returns several pictures in one row."""
    if len(images) == 1:
        return images[0]
    width = sum(image.width for image in images) + _GAP_PIXELS * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + _GAP_PIXELS
    return sheet


def check_path(path: Path) -> None:
    """Refuses a file that could not be written, before anything is computed.

    Raises:
        InputError: an unknown ending, or a folder that does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}, or {path.name} is one")


def save(image: Image.Image, path: Path) -> None:
    """Writes a picture, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    check_path(path)
    buffer = io.BytesIO()
    try:
        image.save(buffer, FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {error}; a .png takes pictures of any size") from None
    try:
        with open_atomic(path) as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place or a shorter name") from None


def _border(kept: BoolArray, thickness: int) -> BoolArray:
    """Pixels inside a kept region that are at most ``thickness`` away from its edge."""
    inside = kept.copy()
    for _ in range(thickness):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return kept & ~inside
