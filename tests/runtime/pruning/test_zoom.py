"""Which places of an image a small copy's scores name."""

from typing import Any

import numpy as np
import pytest

from glimpse_runtime import Pruning, PruningError
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning.zoom import choose, dilated, enlarged, too_small

COPY, NATIVE = Grid(16, 20, 2), Grid(34, 40, 2)


def logits(**places: float) -> np.ndarray:
    """(80,) logits of the copy, -9 but where ``rRcC`` says otherwise."""
    out = np.full((8, 10), -9, np.float32)
    for name, value in places.items():
        row, column = name[1:].split("c")
        out[int(row), int(column)] = value
    return out.reshape(-1)


def brute_force(found: np.ndarray, shape: tuple[int, int], margin: int) -> np.ndarray:
    """Every native cell whose neighbourhood has a cell with its middle in a found one, cell by cell."""
    rows, columns = shape
    inside = np.zeros(shape, np.bool_)
    for row in range(rows):
        for column in range(columns):
            place = int((row + 0.5) * found.shape[0] / rows), int((column + 0.5) * found.shape[1] / columns)
            inside[row, column] = found[place]
    out = np.zeros(shape, np.bool_)
    for row, column in zip(*inside.nonzero(), strict=True):
        out[max(row - margin, 0) : row + margin + 1, max(column - margin, 0) : column + margin + 1] = True
    return out


@pytest.mark.parametrize("margin", [0, 1, 2, 5, 100, 10**9])
@pytest.mark.parametrize("shape", [(17, 20), (8, 10), (5, 31), (1, 1)])
def test_places_are_enlarged_and_dilated(margin: int, shape: tuple[int, int]) -> None:
    found = np.random.default_rng(margin).random((8, 10)) < 0.05
    assert np.array_equal(dilated(enlarged(found, shape), margin), brute_force(found, shape, margin))


def test_what_is_above_the_threshold_and_around_it_is_encoded() -> None:
    values = logits(r1c1=3, r1c2=1, r2c1=-1, r2c2=-2, r3c3=-2.5)
    report = choose(values, COPY, NATIVE, Pruning(zoom=0.25, zoom_threshold=0.1, zoom_margin=1))
    assert report.zoomed
    found = (1 / (1 + np.exp(-values.astype(np.float64))) > 0.1).reshape(8, 10)
    assert found.sum() == 4
    assert np.array_equal(np.asarray(report.mask), brute_force(found, (17, 20), 1))
    assert report.best == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)
    assert report.patches_share == pytest.approx(80 / 340 + np.asarray(report.mask).mean())


def test_the_best_four_are_followed_where_fewer_are_above_the_threshold() -> None:
    report = choose(logits(r0c0=3, r7c9=-5, r7c0=-6, r0c9=-7), COPY, NATIVE, Pruning(zoom=0.25))
    assert report.zoomed
    assert np.asarray(report.likely)[[0, 7, 7, 0], [0, 9, 0, 9]].all()
    assert np.asarray(report.likely).sum() == 4


def test_an_image_is_encoded_whole_where_nothing_is_likely_or_much_is() -> None:
    unsure = choose(logits(r1c1=-2), COPY, NATIVE, Pruning(zoom=0.25))
    assert (unsure.zoomed, unsure.patches_share) == (False, pytest.approx(80 / 340 + 1))
    assert "the gate is 0.3" in str(unsure.reason)
    assert choose(logits(r1c1=-2), COPY, NATIVE, Pruning(zoom=0.25, zoom_gate=0)).zoomed
    wide = choose(np.full(80, 2, np.float32), COPY, NATIVE, Pruning(zoom=0.25))
    assert (wide.zoomed, wide.reason) == (False, "100% of the image is worth encoding")


def test_small_images_are_not_looked_at_as_a_copy() -> None:
    assert too_small(Grid(32, 32, 2)) == "the image has 256 visual tokens, zooming needs more than 256"
    assert too_small(Grid(32, 34, 2)) is None


@pytest.mark.parametrize(
    "options",
    [
        *({"zoom": value} for value in (0, 1, 1.5, -1, "0.25", True, float("nan"), [0.25])),
        *({"zoom": 0.25, "zoom_margin": value} for value in (-1, 1.5, "2", True)),
        *({"zoom": 0.25, "zoom_gate": value} for value in (-1, 2, "a", np.array([1, 2]))),
        *({"zoom": 0.25, "zoom_threshold": value} for value in (-1, 2, None)),
        *({name: 0.5} for name in ("zoom_gate", "zoom_threshold")),
        {"zoom_margin": 3},
        {"zoom": 0.25, "enabled": False},
        {"zoom": 0.25, "method": "divprune", "max_keep_ratio": 0.5},
        {"zoom": 0.25, "pre": "dart", "pre_keep": 0.5},
        {"zoom": 0.25, "keep_masks": [np.ones((2, 2), np.bool_)]},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PruningError, match=r"zoom|switched off"):
        Pruning(**options)


def test_numbers_of_numpy_are_welcome() -> None:
    pruning = Pruning(zoom=np.float32(0.25), zoom_margin=np.int64(1), zoom_gate=np.float64(0.5), max_keep_ratio=0.2)
    assert (pruning.zoom, pruning.zoom_margin, pruning.zoom_gate) == (0.25, 1, 0.5)
    assert pruning.without_zoom() == Pruning(max_keep_ratio=0.2)


def test_a_share_holds_whatever_the_scores_are() -> None:
    """The best of the places that would be encoded; neither the gate nor the area sends the image back."""
    values = np.random.default_rng(0).normal(-1, 1, 80).astype(np.float32)
    every = choose(values, COPY, NATIVE, Pruning(zoom=0.25, zoom_gate=0, zoom_margin=0))
    few = choose(values, COPY, NATIVE, Pruning(zoom=0.25, zoom_gate=1, zoom_margin=0, zoom_most=0.1))
    assert few.zoomed
    assert few.mask is not None
    assert every.mask is not None
    assert few.mask.sum() == int(0.1 * 17 * 20)
    assert not (few.mask & ~every.mask).any()
    native = enlarged(values.reshape(8, 10), (17, 20))
    assert native[few.mask].min() >= native[~few.mask].max()
    assert few.patches_share == pytest.approx(COPY.patches / NATIVE.patches + few.mask.mean())
    for wrong in (0, -0.1, 1.1, True):
        with pytest.raises(PruningError, match="zoom_most"):
            Pruning(zoom=0.25, zoom_most=wrong)
    with pytest.raises(PruningError, match="zoom"):
        Pruning(zoom_most=0.5)
