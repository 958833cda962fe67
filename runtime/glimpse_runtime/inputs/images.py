"""Whatever a caller calls an image -> a PIL image in RGB, upright, eight bits a channel."""

import io
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from glimpse_runtime.arrays import Array, ByteArray
from glimpse_runtime.errors import ImageError, printable

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array

_ACCEPTED = "a path, the bytes of a JPEG/PNG/WebP/BMP file, a PIL image, or an array (height, width[, 3])"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_DLPACK_CPU = 1
_URI = re.compile(r"(data|[a-zA-Z][a-zA-Z0-9+.-]+(?=://)):")
_LARGEST_FILE_BYTES = 256 << 20
_LARGEST_PIXELS = 50_000_000
# Pillow itself refuses more.
_MOST_PIXELS = 178_956_970
_LARGEST_PIXELS_VARIABLE = "GLIMPSE_MAX_IMAGE_PIXELS"
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_DEEP_RAWMODE = re.compile(r"(?<!BGR);16")
_LARGEST_LEVEL = 255
_TO_EIGHT_BITS = "scale it to 8 bits as its meaning asks, for example (a * (255 / a.max())).astype('uint8')"

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

    EXIF orientation is applied. Alpha is dropped, as the reference's image processor drops it. CMYK, palette and grey
    images become RGB. More than eight bits a channel are refused: depth in millimetres, 12 bits in 16 and full range
    look alike here, and the wrong scale is a picture of something else.

    Args:
        source: a path, the bytes of an image file, a PIL image, or an array: (height, width) grey or
            (height, width, channels) uint8, strided and read-only arrays included.
        encoding: how an array's channels are ordered: one of ``ENCODINGS``; by default ``mono8`` for
            one channel, ``rgb8`` for three, ``rgba8`` for four. Only for arrays.

    Raises:
        ImageError: the image cannot be read, or is not of an accepted form.
    """
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), encoding)  # without what a subclass makes of indexing
    if encoding is not None and isinstance(source, (Image.Image, str, os.PathLike, bytes, bytearray, memoryview)):
        raise ImageError(f"encoding={encoding!r} is for numpy arrays; an image file or PIL image has its own")
    if isinstance(source, Image.Image):
        return _guarded(lambda: _to_rgb(source, "the PIL image"), "the PIL image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "the image data")
    if isinstance(source, str) and (found := _URI.match(source)):
        raise ImageError(
            f"{printable(source)[:40]!r} is a {found[1]}: address, and nothing is fetched here; read it and give the "
            "image's bytes"
        )
    if isinstance(source, (str, os.PathLike)):
        return _from_path(_path(source))
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
    except ImageError:
        raise
    except Exception as error:  # it runs the caller's code
        raise ImageError(f"cannot read the memory of a {type(source).__name__}: {error}") from None
    raise ImageError(f"cannot use a {type(source).__name__} as an image; give {_ACCEPTED}")


def _path(source: str | os.PathLike[str]) -> Path:
    """Returns a path as ``Path`` has it; what the caller's own kind of path says of itself is looked at."""
    try:
        name = os.fspath(source)
    except Exception as error:  # it runs the caller's code
        raise ImageError(f"cannot use a {type(source).__name__} as a path: {error}; give its name as a str") from None
    if not isinstance(name, str):
        raise ImageError(f"cannot use a {type(source).__name__} as a path: it is no text; give its name as a str")
    if not name:
        raise ImageError("the name of an image is empty; is a variable not set? To ask without an image give none")
    return Path(name)


def _from_path(path: Path) -> Image.Image:
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image file; name a file in it")
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE_BYTES + 1)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"there is no file {path}; check the name, or give the image's bytes") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read {path}: {reason}; check that the file may be read, or give its bytes") from None
    return _decode(data, str(path))


def _decode(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty; take the picture again")
    if len(data) > _LARGEST_FILE_BYTES:
        raise ImageError(f"{name} is larger than {_LARGEST_FILE_BYTES >> 20} MiB; shrink it first")

    def decode() -> Image.Image:
        return _to_rgb(Image.open(io.BytesIO(data), formats=_FORMATS), name)

    return _guarded(decode, name)


def _guarded(decode: Callable[[], Image.Image], name: str) -> Image.Image:
    """Runs Pillow's decoders: whatever they raise about the data becomes one clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode()
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"there is no memory for the pixels of {name}; shrink it first") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a JPEG, PNG, WebP or BMP image; convert it, or give its pixels as an array"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large: {error}") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged or cut short: {str(error)[:200]}; take the picture again") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has no pixels ({image.width} x {image.height})")
    if image.mode in _DEEP_MODES:
        raise ImageError(f"{name} has more than eight bits a pixel (mode {image.mode}); {_TO_EIGHT_BITS}")
    _require_size(image.width, image.height, name)
    _require_eight_bits(image, name)
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "La":  # Pillow has no way from it to RGB
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _require_size(width: int, height: int, name: str) -> None:
    """Refuses a picture that is too large before it is decoded, or copied."""
    most = _largest_pixels()
    if width * height > most:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of {most}; shrink it first, or raise the limit "
            f"with the environment variable {_LARGEST_PIXELS_VARIABLE}"
        )


def _require_eight_bits(image: Image.Image, name: str) -> None:
    """Refuses a file of 16-bit colours, of which Pillow keeps the upper halves without a word; its mode hides that."""
    for tile in getattr(image, "tile", ()):
        words = tile[-1] if isinstance(tile[-1], tuple) else (tile[-1],)
        # Rawmodes of sixteen bits a pixel (BGR;16) have five or six a channel; a PPM tells its largest value.
        deep = any(isinstance(word, str) and _DEEP_RAWMODE.search(word) for word in words)
        if deep or (tile[0] in ("ppm", "ppm_plain") and words[-1] > _LARGEST_LEVEL):
            raise ImageError(
                f"{name} has more than eight bits a channel (a {image.format} of 16-bit colours); {_TO_EIGHT_BITS}"
            )


def _largest_pixels() -> int:
    """The most pixels of a picture that are taken."""
    text = os.environ.get(_LARGEST_PIXELS_VARIABLE)
    if text is None:
        return _LARGEST_PIXELS
    if not re.fullmatch("[0-9]{1,12}", text) or not 1 <= int(text) <= _MOST_PIXELS:
        raise ImageError(
            f"{_LARGEST_PIXELS_VARIABLE} must be a number of pixels up to {_MOST_PIXELS}, found {text[:40]!r}"
        )
    return int(text)


def _from_array(frame: Array, encoding: str | None) -> Image.Image:
    if frame.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, found {frame.dtype}; {_TO_EIGHT_BITS}")
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.size == 0:
        raise ImageError(f"an image array must be (height, width) or (height, width, channels), found {frame.shape}")
    by_channels = {1: "mono8", 3: "rgb8", 4: "rgba8"}
    if encoding is None:
        encoding = by_channels.get(frame.shape[-1])
    if not isinstance(encoding, str) or encoding not in _ENCODINGS:
        what = f"an array of shape {frame.shape}" if encoding is None else f"encoding {encoding!r}"
        raise ImageError(f"cannot use {what}; accepted are (height, width, channels) in {', '.join(ENCODINGS)}")
    _require_size(frame.shape[1], frame.shape[0], "an image array")
    channels, to_rgb = _ENCODINGS[encoding]
    if frame.shape[-1] != channels:
        raise ImageError(f"encoding {encoding} has {channels} channel(s), the array has shape {frame.shape}")
    return Image.fromarray(np.ascontiguousarray(to_rgb(frame)))
