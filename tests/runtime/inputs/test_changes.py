"""Which cells of a frame changed, and which windows they lie in."""

import numpy as np
import pytest

from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.inputs.changes import changed_cells
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.grid import Grid, Patches

GRID = Grid(16, 20, 2)
LEVEL = 1 / 255 / 0.27


def patches(seed: int, sigma: float) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(seed).normal(0, sigma * LEVEL, (GRID.patches, 588)).astype(np.float32)
    return values


def cells(*changed: int) -> np.ndarray:
    mask = np.zeros(GRID.visual_tokens, np.bool_)
    mask[list(changed)] = True
    return mask


def found(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    return changed_cells(Patches(after, GRID), before)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7])
def test_what_differs_by_more_than_noise_has_changed(sigma: float, share: float) -> None:
    """Also where most of the picture did: the noise is that of its quietest quarter."""
    before, after = patches(0, sigma), patches(1, sigma)
    some = np.arange(int(share * GRID.visual_tokens))
    after[GRID.patches_of(some)] += 30 * LEVEL
    assert np.array_equal(found(after, before), cells(*some))


@pytest.mark.parametrize("shift", [[8.0, 8.0, 8.0], [8.0, -8.0, 0.0], [-8.0, 4.0, 8.0]], ids=str)
def test_other_light_is_no_noise(shift: list[float]) -> None:
    before, after = patches(0, 2.0), patches(1, 2.0)
    after += np.repeat(shift, 196).astype(np.float32) * np.float32(LEVEL)
    assert found(after, before).all()


def test_more_than_any_noise_is_a_change() -> None:
    assert found(patches(1, 40.0), patches(0, 40.0)).all()


def test_a_level_of_one_cell_is_none() -> None:
    before = np.zeros((GRID.patches, 588), np.float32)
    one, two = before.copy(), before.copy()
    one[GRID.patches_of(np.array([7]))] += 0.8 * LEVEL
    two[GRID.patches_of(np.array([7]))] += 2 * LEVEL
    assert not found(one, before).any()
    assert np.array_equal(found(two, before), cells(7))


@pytest.mark.parametrize("shape", [(8, 8), (10, 12), (9, 7), (1, 30)])
def test_cells_of_a_window_are_computed_together(shape: tuple[int, int]) -> None:
    """Windows are squares of 112 pixels from the upper left corner: 4 x 4 cells, less at the other edges."""
    family = open_family(Bundle.open(packaged_bundle()).manifest)
    numbers = family.windows(Grid(shape[0] * 2, shape[1] * 2, 2)).reshape(shape)
    row, column = np.indices(shape)
    squares = row // 4 * 100 + column // 4
    same = numbers.reshape(-1)[:, None] == numbers.reshape(-1)
    assert np.array_equal(same, squares.reshape(-1)[:, None] == squares.reshape(-1))
