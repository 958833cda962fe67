"""Reading images: every accepted form gives the right RGB pixels, everything else one clear error."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse_runtime import ImageError
from glimpse_runtime.inputs.images import read_image

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 120, 200]], [[9, 8, 7], [250, 251, 252]]], np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_files_keep_every_pixel(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(COLOURS), kind))
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
        assert np.array_equal(np.asarray(read_image(source)), COLOURS)


def test_lossless_webp_keeps_every_pixel() -> None:
    assert np.array_equal(np.asarray(read_image(encoded(Image.fromarray(COLOURS), "WEBP", lossless=True))), COLOURS)


def test_jpeg_is_close() -> None:
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    found = np.asarray(read_image(encoded(Image.fromarray(flat), "JPEG", quality=95))).astype(int)
    assert np.abs(found - flat).max() <= 4


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.repeat(np.repeat(COLOURS, 16, 0), 16, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture must be turned 90 degrees clockwise
    data = encoded(image, "PNG", exif=exif)
    for source in (data, Image.open(io.BytesIO(data))):
        assert np.array_equal(np.asarray(read_image(source)), np.rot90(np.asarray(image), k=-1))


def test_grey_alpha_palette_and_cmyk_become_rgb() -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    assert np.array_equal(np.asarray(read_image(Image.fromarray(grey))), np.repeat(grey[..., None], 3, -1))
    alpha = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 7, np.uint8)])
    assert np.array_equal(np.asarray(read_image(encoded(Image.fromarray(alpha), "PNG"))), COLOURS)
    palette = Image.fromarray(COLOURS).quantize(6)
    assert np.array_equal(np.asarray(read_image(encoded(palette, "PNG"))), np.asarray(palette.convert("RGB")))
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert np.asarray(read_image(ink))[0, 0].tolist() == [0, 255, 255]
    assert np.asarray(read_image(Image.new("1", (2, 2), 1)))[0, 0].tolist() == [255, 255, 255]


def test_array_encodings() -> None:
    assert np.array_equal(np.asarray(read_image(COLOURS)), COLOURS)
    assert np.array_equal(np.asarray(read_image(COLOURS[..., ::-1].copy(), "bgr8")), COLOURS)
    alpha = np.dstack([COLOURS, COLOURS[..., :1]])
    assert np.array_equal(np.asarray(read_image(alpha)), COLOURS)
    assert np.array_equal(np.asarray(read_image(alpha[..., [2, 1, 0, 3]], "bgra8")), COLOURS)
    grey = COLOURS[..., 0]
    for source in (grey, grey[..., None]):
        assert np.array_equal(np.asarray(read_image(source)), np.repeat(grey[..., None], 3, -1))


def test_strided_readonly_and_padded_arrays() -> None:
    padded = np.zeros((3, 8, 3), np.uint8)
    padded[:, :2] = COLOURS
    view = padded[:, :2]
    view.flags.writeable = False
    assert np.array_equal(np.asarray(read_image(view)), COLOURS)
    assert np.array_equal(np.asarray(read_image(COLOURS[::-1, ::-1])), COLOURS[::-1, ::-1])


@pytest.mark.parametrize(
    ("source", "encoding", "part"),
    [
        (COLOURS.astype(np.float32), None, "uint8"),
        (COLOURS[None], None, "(1, 3, 2, 3)"),
        (COLOURS[..., :2], None, "rgb8"),
        (COLOURS, "nv12", "accepted are"),
        (COLOURS, "mono8", "1 channel"),
        (np.zeros((0, 4, 3), np.uint8), None, "(0, 4, 3)"),
        (b"", None, "empty"),
        (b"hello, this is text", None, "not a JPEG"),
        (Image.new("F", (2, 2), 0.5), None, "mode F"),
        (Image.fromarray(np.full((2, 2), -4, np.int32)), None, "mode I"),
        (12, None, "cannot use a int"),
        (Image.new("RGB", (2, 2)), "bgr8", "for numpy arrays"),
    ],
)
def test_unusable_images_are_refused(source: object, encoding: str | None, part: str) -> None:
    with pytest.raises(ImageError, match=r".") as caught:
        read_image(source, encoding)  # type: ignore[arg-type]
    assert part in str(caught.value)


def test_missing_folder_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    path = tmp_path / "cut.png"
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "PNG")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.png is damaged or cut short"):
        read_image(path)
    path.write_bytes(encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:900])
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(path)


def write_black_png(path: Path, side: int) -> None:
    """Writes a black picture of one bit per pixel row by row: Pillow would hold all of it, a byte per pixel."""
    packer = zlib.compressobj()
    rows = b"".join([*(packer.compress(bytes(1 + -(-side // 8))) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    write_black_png(path, 30)
    assert not np.asarray(read_image(path)).any()
    path = tmp_path / "bomb.png"
    write_black_png(path, 30_000)
    assert path.stat().st_size < 200_000
    with pytest.raises(ImageError, match=r"bomb|limit"):
        read_image(path)


def test_damaged_metadata_and_truncated_pil_images_are_one_clear_error() -> None:
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    webp = bytearray(encoded(image, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    with contextlib.suppress(ImageError):
        read_image(bytes(webp))
    whole = encoded(image, "PNG")
    with pytest.raises(ImageError, match="the PIL image is damaged"):
        read_image(Image.open(io.BytesIO(whole[: len(whole) // 2])))
