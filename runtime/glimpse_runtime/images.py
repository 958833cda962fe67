"""Whatever a caller calls an image -> a PIL image in RGB, upright, eight bits a channel."""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glimpse_runtime.errors import ImageError
from glimpse_runtime.types import Array, ByteArray

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array

_ACCEPTED = "a path, the bytes of a JPEG/PNG/WebP/BMP file, a PIL image, or an array (height, width[, 3])"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_DLPACK_CPU = 1
_LARGEST_PIXELS = 178_956_970

_ENCODINGS: dict[str, tuple[int, Callable[[ByteArray], ByteArray]]] = {
    "rgb8": (3, lambda frame: frame),
    "bgr8": (3, lambda frame: frame[..., ::-1]),
    "rgba8": (4, lambda frame: frame[..., :3]),
    "bgra8": (4, lambda frame: frame[..., 2::-1]),
    "mono8": (1, lambda frame: np.repeat(frame, 3, axis=-1)),
}
ENCODINGS = tuple(_ENCODINGS)


def read_image(source: ImageSource, encoding: str | None = None) -> Image.Image:
    """Reads one image.

    EXIF orientation is applied. Alpha is dropped, as the reference's image processor drops it. 16-bit grey is
    scaled to eight bits. CMYK, palette and grey images become RGB.

    Args:
        source: a path, the bytes of an image file, a PIL image, or an array: (height, width) grey or
            (height, width, channels) uint8, strided and read-only arrays included.
        encoding: how an array's channels are ordered: one of ``ENCODINGS``; by default ``mono8`` for
            one channel, ``rgb8`` for three, ``rgba8`` for four. Only for arrays.

    Raises:
        ImageError: the image cannot be read, or is not of an accepted form.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, encoding)
    if encoding is not None and isinstance(source, (Image.Image, str, os.PathLike, bytes, bytearray, memoryview)):
        raise ImageError(f"encoding={encoding!r} is for numpy arrays; an image file or PIL image has its own")
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the PIL image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), len(source), "the image data")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source))
    return _from_array(_as_array(source), encoding)


def _as_array(source: object) -> Array:
    """Takes anything that shows its memory as an array: ``__array_interface__``, or DLPack on the CPU."""
    try:
        if hasattr(source, "__array_interface__"):
            return np.asarray(source)
        if hasattr(source, "__dlpack_device__"):
            device = int(source.__dlpack_device__()[0])
            if device != _DLPACK_CPU:
                raise ImageError(f"the {type(source).__name__} lies on another device; bring it to the CPU first")
            return np.from_dlpack(source)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot read the memory of a {type(source).__name__}: {error}") from None
    raise ImageError(f"cannot use a {type(source).__name__} as an image; give {_ACCEPTED}")


def _from_path(path: Path) -> Image.Image:
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image file")
        with path.open("rb") as file:
            return _decode(file, size_bytes, str(path))
    except FileNotFoundError:
        raise ImageError(f"there is no file {path}") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from None


def _decode(file: "io.BufferedReader | io.BytesIO", size_bytes: int, name: str) -> Image.Image:
    if size_bytes == 0:
        raise ImageError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=_FORMATS)
            if image.width * image.height > _LARGEST_PIXELS:
                raise ImageError(
                    f"{name} claims {image.width} x {image.height} pixels, more than the limit of "
                    f"{_LARGEST_PIXELS}; shrink it first"
                )
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), name)
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a JPEG, PNG, WebP or BMP image") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged or cut short: {error}") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has no pixels ({image.width} x {image.height})")
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _from_array(_eight_bits(np.asarray(image), image.mode, name), "mono8")
    return image.convert("RGB")


def _eight_bits(values: Array, mode: str, name: str) -> ByteArray:
    if mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has pixel mode {mode} with values outside 0..65535; convert it to 8 or 16 bits")
    return (values.astype(np.uint32) >> 8).astype(np.uint8)


def _from_array(frame: Array, encoding: str | None) -> Image.Image:
    if frame.dtype != np.uint8:
        raise ImageError(
            f"an image array must be uint8, found {frame.dtype}; scale it to 0..255 and convert with .astype('uint8')"
        )
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.size == 0:
        raise ImageError(f"an image array must be (height, width) or (height, width, channels), found {frame.shape}")
    by_channels = {1: "mono8", 3: "rgb8", 4: "rgba8"}
    encoding = encoding or by_channels.get(frame.shape[-1])
    if encoding not in _ENCODINGS:
        what = f"encoding {encoding!r}" if encoding else f"an array of shape {frame.shape}"
        raise ImageError(f"cannot use {what}; accepted are (height, width, channels) in {', '.join(ENCODINGS)}")
    channels, to_rgb = _ENCODINGS[encoding]
    if frame.shape[-1] != channels:
        raise ImageError(f"encoding {encoding} has {channels} channel(s), the array has shape {frame.shape}")
    return Image.fromarray(np.ascontiguousarray(to_rgb(frame)), "RGB")
