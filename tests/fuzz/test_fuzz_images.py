"""Images of every kind, whole and damaged."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import fuzzed, outcome, read
from mutating import TEXTS, changed_bytes, values
from PIL import Image

from glimpse_runtime import GlimpseError
from glimpse_runtime.inputs.images import ENCODINGS, read_image
from glimpse_runtime.session.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
DTYPES = ("uint8", "uint8", "int8", "uint16", "float16", "float32", "float64", "bool", "complex64", "object", "U3")
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16")


def encoded(kind: str) -> bytes:
    rows, columns = np.mgrid[:28, :42]
    picture = Image.fromarray(np.stack([rows, columns, rows * columns % 251], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
    return file.getvalue()


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(0, 5) | st.sampled_from((1, 3, 4, 60)), max_size=4))
    array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    if array.dtype.kind == "f":
        array += draw(st.sampled_from((0.5, np.nan, np.inf)))
    return array[::-1] if shape and draw(st.booleans()) else array


pillow = st.builds(
    Image.new, st.sampled_from(MODES), st.tuples(st.integers(0, 60), st.integers(0, 60)) | st.just((3000, 1))
)
files = st.one_of([changed_bytes(encoded(kind)) for kind in FORMATS])
images = st.one_of(files, arrays(), pillow, values, st.sampled_from(TEXTS), st.lists(arrays() | pillow, max_size=3))
encodings = st.none() | st.sampled_from((*ENCODINGS, "yuv422")) | values


@fuzzed(1500)
@given(files)
def test_damaged_files(data: bytes) -> None:
    result = outcome(lambda: read_image(data))
    assert isinstance(result, GlimpseError) or (result.mode == "RGB" and min(result.size) > 0)


@fuzzed(150)
@given(images=images, encoding=encodings)
def test_questions_about_anything(pocket: Session, images: Any, encoding: Any) -> None:
    outcome(lambda: read(pocket.ask(images, "Is there a star?", encoding=encoding, max_new_tokens=2)))
