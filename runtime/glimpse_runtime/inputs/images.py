"""Whatever a caller calls an image -> a PIL image in RGB, upright, eight bits a channel."""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glimpse_runtime.arrays import Array, ByteArray
from glimpse_runtime.errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array

_ACCEPTED = "a path, the bytes of a JPEG/PNG/WebP/BMP file, a PIL image, or an array (height, width[, 3])"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_DLPACK_CPU = 1
_LARGEST_FILE_BYTES = 256 << 20
_LARGEST_PIXELS = 178_956_970

_ENCODINGS: dict[str, tuple[int, Callable[[ByteArray], ByteArray]]] = {
    "rgb8": (3, lambda frame: frame),
    "bgr8": (3, lambda frame: frame[..., ::-1]),
    "rgba8": (4, lambda frame: frame[..., :3]),
    "bgra8": (4, lambda frame: frame[..., 2::-1]),
    "mono8": (1, lambda frame: np.repeat(frame, 3, axis=-1)),
}
ENCODINGS = tuple(_ENCODINGS)
CHANNELS = {encoding: channels for encoding, (channels, _) in _ENCODINGS.items()}


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
        return _guarded(lambda: _to_rgb(source, "the PIL image"), "the PIL image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "the image data")
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
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image file")
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return _decode(data, str(path))


def _decode(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty")
    if len(data) > _LARGEST_FILE_BYTES:
        raise ImageError(f"{name} is larger than {_LARGEST_FILE_BYTES >> 20} MiB; shrink it first")

    def decode() -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _LARGEST_PIXELS:
            raise ImageError(
                f"{name} claims {image.width} x {image.height} pixels, more than the limit of {_LARGEST_PIXELS}; "
                "shrink it first"
            )
        image.load()
        return _to_rgb(image, name)

    return _guarded(decode, name)


def _guarded(decode: Callable[[], Image.Image], name: str) -> Image.Image:
    """Runs Pillow's decoders: whatever they raise about the data becomes one clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a JPEG, PNG, WebP or BMP image") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large: {error}") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged or cut short: {error}") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has no pixels ({image.width} x {image.height})")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        return _from_array(_eight_bits(np.asarray(image), name), "mono8")
    if image.mode == "F":
        raise ImageError(f"{name} has floating-point pixels (mode F); convert it to 8 or 16 bits")
    return image.convert("RGB")


def _eight_bits(values: Array, name: str) -> ByteArray:
    """Scales 16-bit grey to eight bits."""
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has values outside 0..65535; convert it to 8 or 16 bits")
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
    return Image.fromarray(np.ascontiguousarray(to_rgb(frame)))
