"""Pixels as middleware carries them, a flat run of bytes, become an array that is an image."""

from typing import Any

import numpy as np

from glimpse_runtime.arrays import ByteArray
from glimpse_runtime.errors import ImageError
from glimpse_runtime.inputs.images import CHANNELS


def raw_image(data: Any, height: int, width: int, encoding: str, step: int = 0) -> ByteArray:
    """Returns a view of rows of pixels; nothing is copied.

    Args:
        data: anything with the buffer protocol, or a one-dimensional uint8 array; at least height * step bytes.
        height: rows.
        width: pixels in a row.
        encoding: one of ``glimpse_runtime.inputs.images.ENCODINGS``.
        step: bytes from one row to the next, padding included; 0 is rows without padding.

    Returns:
        (height, width, channels) uint8.

    Raises:
        ImageError: the encoding is not accepted, or the sizes do not fit together.
    """
    if encoding not in CHANNELS:
        raise ImageError(
            f"cannot use images with encoding {encoding!r}; accepted are {', '.join(CHANNELS)}; convert it first"
        )
    channels = CHANNELS[encoding]
    row_bytes = width * channels
    step = step or row_bytes
    if height < 1 or width < 1:
        raise ImageError(f"an image must have pixels, found {width} x {height}")
    if step < row_bytes:
        raise ImageError(f"step is {step} bytes, but {width} pixels of {encoding} need {row_bytes}")
    flat = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if flat.dtype != np.uint8 or flat.ndim != 1:
        raise ImageError(f"image data must be a flat run of bytes, found {flat.ndim} dimensions of {flat.dtype}")
    least = (height - 1) * step + row_bytes
    if flat.size < least:
        raise ImageError(
            f"image data has {flat.size} bytes; {width} x {height} pixels of {encoding} with step {step} need {least}"
        )
    shape, strides = (height, width, channels), (step * flat.strides[0], channels, 1)
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
