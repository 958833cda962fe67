"""``encode(image, cells=...)``: which cells of an image a scene is made of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse_runtime import InputError, Pruning, Session
from glimpse_runtime.inputs.cells import checked_cells
from glimpse_runtime.inputs.grid import Grid

SHAPE = (10, 12)


@pytest.fixture
def photo() -> np.ndarray:
    """A picture of 10 x 12 visual tokens."""
    return np.random.default_rng(0).integers(0, 256, (280, 336, 3), np.uint8)


def test_a_scene_of_some_cells_answers_from_them(pocket: Session, photo: np.ndarray) -> None:
    """Places, masks and lists of either are the same; all cells are the whole image."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[1:4, 2:6] = True
    places, found = np.flatnonzero(mask), []
    for images, cells in ((photo, places), (photo, mask), ([photo], [places.tolist()]), ([photo], (mask,))):
        scene = pocket.encode(images, cells=cells)
        found.append(scene.ask("What colour is the circle?", pruning=Pruning(enabled=False), max_new_tokens=4))
        assert found[-1].text == found[0].text
        assert np.array_equal(found[-1].pruning.encoded_masks[0], mask)
        assert np.array_equal(found[-1].pruning.keep_masks[0], mask)
        assert (found[-1].pruning.kept, found[-1].pruning.total) == (12, 120)
    every = pocket.encode(photo, cells=np.ones(SHAPE, np.bool_)).ask("What is it?", max_new_tokens=4)
    assert every.pruning.encoded_masks == ()
    assert every.text == pocket.ask(photo, "What is it?", max_new_tokens=4).text
    two = pocket.encode([photo, photo], cells=[None, mask]).ask("What is it?", max_new_tokens=2)
    assert [int(part.sum()) for part in two.pruning.encoded_masks] == [120, 12]


@pytest.mark.parametrize(
    "cells",
    [
        *([], [-1], [120], [2, 1], [1, 1], [0.5], "all", 3, True, [[0, 1]], [[0], [1, 2]], [None]),
        *(np.zeros(SHAPE, np.bool_), np.ones(SHAPE[::-1], np.bool_), np.array([[1, 2]]), np.array([2**63], np.uint64)),
    ],
    ids=str,
)
def test_cells_that_an_image_does_not_have_are_refused(pocket: Session, photo: np.ndarray, cells: Any) -> None:
    with pytest.raises(InputError, match=r"cell"):
        pocket.encode(photo, cells=cells)


def test_no_cells_at_all_are_called_so(pocket: Session, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="no cell of image 0 is chosen"):
        pocket.encode(photo, cells=[])


@pytest.mark.parametrize("cells", [[0], [[0], [1]], np.array([0]), [None, None], {0: 1}])
def test_a_list_of_images_takes_a_list_of_cells(pocket: Session, photo: np.ndarray, cells: Any) -> None:
    with pytest.raises(InputError, match=r"cells"):
        pocket.encode([photo], cells=cells)


def test_a_family_that_sees_whole_images_refuses_by_name() -> None:
    pytest.importorskip("glimpse_models")
    from glimpse_models.llava_1_5.light.family import Llava15

    family = Llava15.__new__(Llava15)
    grid = Grid(8, 8, 1)
    assert checked_cells(list(range(64)), Path("x.png"), (grid,), family) == [None]
    with pytest.raises(InputError, match=r"LLaVA-1\.5 \(CLIP\) cannot encode a part"):
        checked_cells([1, 2], Path("x.png"), (grid,), family)
    with pytest.raises(InputError, match=r"LLaVA-1\.5"):
        family.vision_inputs(grid, np.array([1]))
