"""Pixels as middleware carries them, a flat run of bytes, become an array that is an image."""

from typing import Any

import numpy as np

from glimpse_runtime.arrays import ByteArray
from glimpse_runtime.checked import shown, whole
from glimpse_runtime.errors import ImageError
from glimpse_runtime.inputs.images import CHANNELS


def raw_image(data: Any, height: int, width: int, encoding: str, step: int = 0) -> ByteArray:
    """Returns a view of rows of pixels; nothing is copied where the bytes lie one after the other.

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
    if not isinstance(encoding, str) or encoding not in CHANNELS:
        raise ImageError(
            f"cannot use images with encoding {shown(encoding)}; accepted are {', '.join(CHANNELS)}; convert it first"
        )
    height, width = whole("height", height, 1, error=ImageError), whole("width", width, 1, error=ImageError)
    channels = CHANNELS[encoding]
    row_bytes = width * channels
    step = whole("step", step, 0, error=ImageError) or row_bytes
    if step < row_bytes:
        raise ImageError(f"step is {step} bytes, but {width} pixels of {encoding} need {row_bytes}")
    flat = data if isinstance(data, np.ndarray) else _bytes(data)
    if flat.dtype != np.uint8 or flat.ndim != 1:
        raise ImageError(f"image data must be a flat run of bytes, found {flat.ndim} dimensions of {flat.dtype}")
    least = (height - 1) * step + row_bytes
    if flat.size < least:
        raise ImageError(
            f"image data has {flat.size} bytes; {width} x {height} pixels of {encoding} with step {step} need {least}"
        )
    flat = np.ascontiguousarray(flat)
    shape, strides = (height, width, channels), (step, channels, 1)
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _bytes(data: Any) -> ByteArray:
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(f"cannot read the memory of a {type(data).__name__}: {error}; give bytes") from None
