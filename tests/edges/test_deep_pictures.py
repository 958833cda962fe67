"""Pictures of more than eight bits a channel, however they hide it: the wrong scale is a picture of something else."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse_runtime import ImageError
from glimpse_runtime.inputs.images import read_image

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def png(colour_type: int, depth: int) -> bytes:
    """A picture of 4 x 4 equal pixels; Pillow cannot write 16-bit colours itself."""
    sample = struct.pack(">H", 300) if depth == 16 else b"\x40"
    rows = (b"\0" + sample * CHANNELS[colour_type] * 4) * 4

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 4, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour_type", CHANNELS)
def test_a_png_of_sixteen_bits_is_refused(colour_type: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(colour_type, 16))
    for source in (path, path.read_bytes(), Image.open(io.BytesIO(path.read_bytes()))):
        with pytest.raises(ImageError, match=r"more than eight bits a .*scale it to 8 bits"):
            read_image(source)


@pytest.mark.parametrize("colour_type", CHANNELS)
def test_the_same_picture_of_eight_bits_is_read(colour_type: int) -> None:
    data = png(colour_type, 8)
    for source in (data, Image.open(io.BytesIO(data))):
        assert np.unique(np.asarray(read_image(source))).tolist() == [0x40]


def test_a_bmp_of_sixteen_bits_a_pixel_has_five_a_channel() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 14 + 40 + 8, 0, 0, 54) + header + b"\xff\x7f" * 4
    assert np.asarray(read_image(data)).min() == 255


def tiff() -> bytes:
    """A picture of 2 x 2 pixels of sixteen bits a channel; Pillow cannot write it."""
    data, entries = np.full((2, 2, 3), 300, "<u2").tobytes(), []
    start = 8 + 2 + 12 * 8 + 4
    for tag, kind, count, value in (
        (256, 3, 1, 2),
        (257, 3, 1, 2),
        (258, 3, 3, start),
        (262, 3, 1, 2),
        (273, 4, 1, start + 6),
        (277, 3, 1, 3),
        (278, 4, 1, 2),
        (279, 4, 1, len(data)),
    ):
        entries.append(struct.pack("<HHII", tag, kind, count, value))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return head + struct.pack("<HHH", 16, 16, 16) + data


@pytest.mark.parametrize(
    "data", [tiff(), b"P6 2 2 65535\n" + bytes(24), b"P6 2 2 1023\n" + bytes(24), b"P3 1 1 4095\n300 300 300\n"]
)
def test_files_that_only_pillow_opens_are_no_deeper(data: bytes) -> None:
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "RGB"
    with pytest.raises(ImageError, match=r"more than eight bits a channel .*scale it to 8 bits"):
        read_image(picture)


def test_a_ppm_of_eight_bits_is_read() -> None:
    for most in (15, 255):
        picture = Image.open(io.BytesIO(b"P6 1 1 %d\n" % most + bytes([most] * 3)))
        assert np.asarray(read_image(picture)).min() == 255


def test_grey_with_premultiplied_alpha_is_grey() -> None:
    assert np.asarray(read_image(Image.new("LA", (2, 2), (64, 255)).convert("La"))).max() == 64
