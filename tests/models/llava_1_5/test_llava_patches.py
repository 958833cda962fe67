"""LLaVA's images: equal to the golden vectors and to padding written separately before transformers' processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llava_models import GOLDEN
from PIL import Image

from glimpse_models.llava_1_5.light.family import Llava15
from glimpse_models.llava_1_5.light.patches import LARGEST_PIXELS, patchify
from glimpse_models.llava_1_5.light.record import ImageRules, Record
from glimpse_runtime import ImageError, InputError
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning.boxes import kept_boxes
from glimpse_runtime.pruning.overlay import draw

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RULES = ImageRules(14, 112, (112,), True, MEAN, STD, 1 / 255)
SIZES = ((112, 112), (200, 80), (70, 190), (33, 32), (1, 5), (641, 480))


def as_image(patches: np.ndarray, rules: ImageRules) -> np.ndarray:
    """(3, height, width) of (patches, values)."""
    side, patch = rules.side, rules.patch_size
    cut = patches.reshape(side, side, 3, patch, patch).transpose(2, 0, 3, 1, 4)
    return cut.reshape(3, side * patch, side * patch)


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(noise.astype(np.uint8))


@pytest.mark.parametrize("path", sorted((GOLDEN / "cases").glob("*.npz")), ids=lambda path: path.stem)
def test_golden_pixels_are_equal_in_every_bit(path: Path) -> None:
    image = Image.open(GOLDEN / "images" / f"{path.stem}_0.png").convert("RGB")
    found = patchify(image, RULES)
    np.testing.assert_array_equal(as_image(found.pixel_values, RULES), np.load(path)["pixel_values"][0])
    assert found.grid == Grid(8, 8, 1)


def padded(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The square of LLaVA's ``expand2square``, in numpy."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    side = max(height, width)
    out = np.empty((side, side, 3), np.uint8)
    out[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = pixels
    return Image.fromarray(out)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("pad", "resize", "asked"),
    [
        (True, (112,), {"shortest_edge": 112}),
        (False, (112,), {"shortest_edge": 112}),
        (False, (130,), {"shortest_edge": 130}),
        (True, (120, 140), {"height": 120, "width": 140}),
    ],
    ids=str,
)
def test_pixels_are_those_of_transformers(
    size: tuple[int, int], pad: bool, resize: tuple[int, ...], asked: dict[str, Any]
) -> None:
    pytest.importorskip("transformers")
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:
        from transformers.models.clip.image_processing_clip import CLIPImageProcessor as Processor
    rules = ImageRules(14, 112, resize, pad, MEAN, STD, 1 / 255)
    image = picture(*size)
    given = padded(image, (122, 116, 104)) if pad else image
    processor = Processor(size=asked, crop_size={"height": 112, "width": 112}, image_mean=MEAN, image_std=STD)
    expected = np.asarray(processor(images=given, return_tensors="np")["pixel_values"][0], np.float32)
    np.testing.assert_array_equal(as_image(patchify(image, rules).pixel_values, rules), expected)


def test_what_no_whole_patch_holds_is_not_seen() -> None:
    rules = ImageRules(14, 120, (120,), True, MEAN, STD, 1 / 255)
    image = picture(120, 120)
    whole = patchify(image, ImageRules(1, 120, (120,), True, MEAN, STD, 1 / 255))
    expected = whole.pixel_values.reshape(120, 120, 3).transpose(2, 0, 1)[:, :112, :112]
    np.testing.assert_array_equal(as_image(patchify(image, rules).pixel_values, rules), expected)


def test_boxes_and_pictures_leave_the_padding_out() -> None:
    """A grid of 4 x 4 over 80 x 40 pixels: its first and last rows of cells are padding."""
    rules = ImageRules(14, 56, (56,), True, MEAN, STD, 1 / 255)
    window = Llava15(Record(rules)).seen((80, 40))
    assert window == (0, -20, 80, 60)
    keep = np.zeros((4, 4), bool)
    keep[0, 0] = keep[1, 2] = keep[3, 3] = True
    assert kept_boxes(keep, (80, 40), window) == ((40, 0, 60, 20),)
    keep[2, 3] = True
    assert kept_boxes(keep, (80, 40), window) == ((40, 0, 60, 20), (60, 20, 80, 40))
    shown = np.asarray(draw(Image.new("RGB", (80, 40), (200, 200, 200)), keep, window))
    assert tuple(shown[10, 50]) == tuple(shown[30, 70]) == (200, 200, 200)
    assert max(shown[10, 10]) < 100
    assert max(shown[30, 50]) < 100


def test_boxes_leave_out_what_was_cut_off() -> None:
    rules = ImageRules(14, 56, (56,), False, MEAN, STD, 1 / 255)
    window = Llava15(Record(rules)).seen((80, 40))
    assert window == (20, 0, 60, 40)
    assert kept_boxes(np.ones((4, 4), bool), (80, 40), window) == ((20, 0, 60, 40),)
    shown = np.asarray(draw(Image.new("RGB", (80, 40), (200, 200, 200)), np.ones((4, 4), bool), window))
    assert max(shown[20, 10]) < 100
    assert tuple(shown[20, 40]) == (200, 200, 200)


def test_all_images_have_one_size() -> None:
    family = Llava15(Record(RULES))
    assert family.grid(picture(640, 480)) == family.grid(picture(3, 3)) == family.blank(1).grid == Grid(8, 8, 1)
    assert family.blank(1).pixel_values.shape == (64, 3 * 14 * 14)
    assert family.limited(112 * 112) is family
    assert family.limited(10**9) is family
    for wrong in (112 * 112 - 1, 0, "big"):
        with pytest.raises(InputError, match=r"at least 12544.*112 x 112 pixels"):
            family.limited(wrong)  # type: ignore[arg-type]


def test_an_image_that_would_take_all_memory_is_refused() -> None:
    family = Llava15(Record(RULES))
    with pytest.raises(ImageError, match="too long"):
        family.grid(Image.new("L", (20_000, 1)))
    assert LARGEST_PIXELS < 20_000**2
