"""Patches are bit-identical to the reference's slow image processor."""

import numpy as np
import pytest
from PIL import Image

from glimpse_models.qwen2_5_vl.light.patches import patch_grid, patchify, smart_resize
from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_runtime import ImageError
from glimpse_runtime.inputs.images import read_image

RULES = ImageRules(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rescale_factor=1 / 255,
)
SIZES = [(224, 224), (333, 200), (37, 211), (12, 9), (1, 1), (28, 28), (42, 70), (1500, 1100), (199, 1), (630, 98)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limits", [(56 * 56, 28 * 28 * 1280), (28 * 28 * 16, 28 * 28 * 64)])
def test_equal_to_the_reference_processor(size: tuple[int, int], limits: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    noise = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    rules = ImageRules(**{**RULES.__dict__, "min_pixels": limits[0], "max_pixels": limits[1]})
    processor = transformers.Qwen2VLImageProcessorPil(min_pixels=limits[0], max_pixels=limits[1])
    expected = processor(images=[image], return_tensors="np")
    found = patchify(image, rules)
    assert found.pixel_values.dtype == np.float32
    assert np.array_equal(found.pixel_values, expected["pixel_values"])
    assert [1, found.grid.rows, found.grid.columns] == expected["image_grid_thw"][0].tolist()
    assert patch_grid(image, rules) == found.grid


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_equal_the_reference_processor(mode: str) -> None:
    transformers = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    noise = np.random.default_rng(3).integers(0, 256, (90, 120, 4), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    expected = transformers.Qwen2VLImageProcessorPil(do_convert_rgb=True)(images=[image], return_tensors="np")
    rules = ImageRules(**{**RULES.__dict__, "max_pixels": 28 * 28 * 1280})
    assert np.array_equal(patchify(read_image(image), rules).pixel_values, expected["pixel_values"])


def test_sizes_are_rounded_half_to_even() -> None:
    assert smart_resize(70, 98, RULES) == (56, 112)  # 2.5 -> 2, 3.5 -> 4
    assert smart_resize(224, 224, RULES) == (224, 224)


def test_too_long_images_are_refused() -> None:
    with pytest.raises(ImageError, match="one side may be 200 times the other; cut it"):
        smart_resize(1, 201, RULES)
