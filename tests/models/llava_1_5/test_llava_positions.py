import numpy as np
import pytest

from glimpse_models.llava_1_5.light.positions import text_positions
from glimpse_runtime import PromptError
from glimpse_runtime.inputs.grid import Grid

GRID = Grid(2, 3, 1)


def test_visual_tokens_count_like_words() -> None:
    ids = np.array([1, 5, *[9] * 6, 4, 4])
    np.testing.assert_array_equal(text_positions(ids, [GRID], 9), np.arange(10)[None])
    np.testing.assert_array_equal(text_positions(np.array([1, 2, 3]), [], 9), [[0, 1, 2]])


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, 9, 9], [GRID], "2 image tokens, its images need 6"),
        ([1, 9], [], "1 image tokens, its images need 0"),
        ([9, 9, 1, 9, 9, 9, 9], [GRID], "not in one run at prompt position 2"),
    ],
)
def test_images_must_match(ids: list[int], grids: list[Grid], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        text_positions(np.array(ids), grids, 9)
