"""Images of at most so many visual tokens: the grid is the one that transformers gives for a limit in pixels."""

import dataclasses
import math

import pytest
from PIL import Image

from glimpse_models.qwen2_5_vl.light.patches import fitted, patch_grid
from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_runtime import ImageError

RULES = ImageRules(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    rescale_factor=1 / 255,
)
SIZES = ((640, 480), (333, 200), (37, 211), (12, 9), (1, 1), (42, 70), (1500, 1100), (630, 98))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("most", [1, 2, 5, 64, 100, 1024])
def test_an_image_never_has_more_tokens(size: tuple[int, int], most: int) -> None:
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    image = Image.new("RGB", size)
    try:
        rules = fitted(image.height, image.width, RULES, most)
    except ImageError as error:
        needed = int(str(error).split("max_visual_tokens=")[1].split()[0])
        assert needed > most
        assert patch_grid(image, fitted(image.height, image.width, RULES, needed)).visual_tokens <= needed
        if needed - 1 > most:
            with pytest.raises(ImageError):
                fitted(image.height, image.width, RULES, needed - 1)
        return
    grid = patch_grid(image, rules)
    assert grid.visual_tokens <= most
    limit = min(RULES.max_pixels, most * 28 * 28)
    height, width = reference(image.height, image.width, 28, min(RULES.min_pixels, limit), limit)
    asked = height * width // 28**2
    if asked <= most:  # what everybody gets who gives the limit in pixels, unless that is too many
        assert (grid.rows * 14, grid.columns * 14) == (height, width)
    more = dataclasses.replace(rules, min_pixels=rules.min_pixels + 1)
    if rules.min_pixels < min(RULES.min_pixels, limit):
        assert patch_grid(image, more).visual_tokens > most
    assert math.gcd(grid.rows, 2) == math.gcd(grid.columns, 2) == 2
