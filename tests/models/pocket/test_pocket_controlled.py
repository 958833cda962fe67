"""The controlled scenes of pocket: one thing varies and all else is equal, pixel by pixel."""

from fractions import Fraction
from itertools import pairwise
from random import Random

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from glimpse_models.pocket.controlled import SIDES, counting_scenes, resized_scenes
from glimpse_models.pocket.scenes.questions import PLURALS, ask
from glimpse_models.pocket.scenes.relevant import BESIDE, MARGIN, TOUCHED, graded_tokens, relevant_tokens
from glimpse_models.pocket.scenes.scenes import SceneObject, cut_out, free_corner
from glimpse_models.pocket.scenes.sprites import SHAPES

CELL = 28
SEEDS = range(4)


def pixels(scene):
    return np.asarray(scene.image, int)


@pytest.mark.parametrize("seed", SEEDS)
def test_counting_scenes_hold_one_more_shape_each_time(seed):
    shape = SHAPES[seed]
    made = counting_scenes(Random(seed), shape, 448)
    assert [question.answer for _, question in made] == ["1", "2", "3", "4"]
    for count, (scene, question) in enumerate(made, 1):
        asked = [item.box for item in scene.objects if item.kind == shape]
        assert question.boxes == tuple(asked)
        assert len(asked) == count
        assert PLURALS[shape] in question.text


@pytest.mark.parametrize("seed", SEEDS)
def test_counting_scenes_differ_in_the_counted_shape_alone(seed):
    made = [scene for scene, _ in counting_scenes(Random(seed), "star", 448)]
    for first, second in pairwise(made):
        assert [item.box for item in first.objects] == [item.box for item in second.objects]
        assert [item.colour for item in first.objects] == [item.colour for item in second.objects]
        (changed,) = [b for a, b in zip(first.objects, second.objects, strict=True) if a.kind != b.kind]
        assert changed.kind == "star"
        left, top, right, bottom = changed.box
        differs = (pixels(first) != pixels(second)).any(2)
        assert differs[top:bottom, left:right].any()
        differs[top:bottom, left:right] = False
        assert not differs.any()


def test_too_small_a_picture_is_refused():
    with pytest.raises(LookupError, match="draw a larger picture"):
        counting_scenes(Random(0), "star", 224)


@pytest.mark.parametrize("seed", SEEDS)
def test_resized_scenes_show_the_same_objects(seed):
    scenes = resized_scenes(Random(seed))
    assert [scene.image.size for scene in scenes] == [(side, side) for side in SIDES]
    first = scenes[0]
    for scene in scenes[1:]:
        assert len(scene.objects) == len(first.objects) > 0
        for there, here in zip(first.objects, scene.objects, strict=True):
            assert (there.kind, there.colour, there.text) == (here.kind, here.colour, here.text)
            assert np.array_equal(inner(first, there), inner(scene, here))


def inner(scene, item):
    """The middle of an object, where no sprite is transparent."""
    left, top, right, bottom = item.box
    across, down = (right - left) * 2 // 5, (bottom - top) * 2 // 5
    return pixels(scene)[top + down : bottom - down, left + across : right - across]


@pytest.mark.parametrize("seed", SEEDS)
def test_resized_scenes_have_equal_questions_and_equally_many_relevant_tokens(seed):
    asked = [ask(Random(seed), scene.objects, 7) for scene in resized_scenes(Random(seed))]
    for questions, side in zip(asked[1:], SIDES[1:], strict=True):
        for there, here in zip(asked[0], questions, strict=True):
            assert (there.text, there.answer) == (here.text, here.answer)
            counts = [
                relevant_tokens(question.boxes, (s, s), s // CELL, s // CELL).sum()
                for question, s in ((there, SIDES[0]), (here, side))
            ]
            assert counts[0] == counts[1]


def test_equal_seeds_draw_equal_scenes():
    for draw in (resized_scenes, lambda rng: [scene for scene, _ in counting_scenes(rng, "heart", 448)]):
        for first, second in zip(draw(Random(5)), draw(Random(5)), strict=True):
            assert np.array_equal(pixels(first), pixels(second))


def test_pasting_leaves_the_sprite_for_other_pictures():
    cutout = cut_out(Random(0), SceneObject("sign", "white", "PARIS"), small=True)
    canvases = [resized_scenes(Random(1), (224,), photos=())[0].image.copy() for _ in range(2)]
    first, second = (cutout.paste(canvas, (8, 9)) for canvas in canvases)
    assert first == second
    assert cutout.item.box == (0, 0, 0, 0)


def test_corners_keep_their_place_within_a_token():
    for seed in range(20):
        corner = free_corner(Random(seed), (40, 30), (300, 200), [], start=(5, 11), step=CELL)
        assert (corner[0] % CELL, corner[1] % CELL) == (5, 11)
        assert corner[0] + 40 <= 300
        assert corner[1] + 30 <= 200
    assert free_corner(Random(0), (40, 30), (44, 200), [], start=(5, 11), step=CELL) is None


@pytest.mark.parametrize(("size", "grid"), [((448, 336), (12, 16)), ((500, 350), (12, 18)), ((896, 896), (24, 24))])
def test_relevant_tokens_are_those_that_share_area_with_a_box(size, grid):
    rng = Random(0)
    boxes = [(0, 0, 28, 28), (28, 28, 56, 57), (size[0] - 1, size[1] - 1, *size)]
    for _ in range(20):
        left, top = rng.randrange(size[0] - 70), rng.randrange(size[1] - 70)
        boxes.append((left, top, left + rng.randint(1, 70), top + rng.randint(1, 70)))
    cell = Fraction(size[0], grid[1]), Fraction(size[1], grid[0])
    for box in boxes:
        expected = [
            [
                column * cell[0] < box[2]
                and box[0] < (column + 1) * cell[0]
                and row * cell[1] < box[3]
                and box[1] < (row + 1) * cell[1]
                for column in range(grid[1])
            ]
            for row in range(grid[0])
        ]
        assert np.array_equal(relevant_tokens([box], size, *grid), expected)
    assert not relevant_tokens([], size, *grid).any()


def test_a_margin_widens_every_side():
    wide = relevant_tokens([(60, 60, 80, 80)], (448, 336), 12, 16, margin=MARGIN)
    assert np.array_equal(wide, relevant_tokens([(52, 52, 88, 88)], (448, 336), 12, 16))
    assert wide.sum() == 9
    assert relevant_tokens([(0, 0, 5, 5)], (448, 336), 12, 16, margin=MARGIN).sum() == 1


def test_graded_scores_rise_with_what_a_token_shows():
    left, top, right, bottom = box = (30, 40, 110, 66)
    found = graded_tokens([box], (224, 168), 6, 8)
    areas = [
        [
            max(0, min(right, x + 28) - max(left, x)) * max(0, min(bottom, y + 28) - max(top, y))
            for x in range(0, 224, 28)
        ]
        for y in range(0, 168, 28)
    ]
    touched = relevant_tokens([box], (224, 168), 6, 8)
    beside = relevant_tokens([box], (224, 168), 6, 8, MARGIN) & ~touched
    np.testing.assert_allclose(found[touched], TOUCHED + (1 - TOUCHED) * np.array(areas)[touched] / np.max(areas))
    np.testing.assert_allclose(found[beside], BESIDE)
    assert found.max() == 1
    assert not found[~touched & ~beside].any()
    both = graded_tokens([box, (150, 100, 170, 120)], (224, 168), 6, 8)
    assert np.array_equal(both, np.maximum(found, graded_tokens([(150, 100, 170, 120)], (224, 168), 6, 8)))
    assert not graded_tokens([], (224, 168), 6, 8).any()
