"""The scenes of pocket: reproducible, split cleanly, and with questions that the scene really answers."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from glimpse_models.pocket.scenes.backgrounds import PHOTOS, photo
from glimpse_models.pocket.scenes.heldout import QUESTIONS_PER_SCENE, samples
from glimpse_models.pocket.scenes.questions import MAX_COUNT, TYPES, ask
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_models.pocket.scenes.sprites import COLOURS, SHAPES, lettered_sprite
from glimpse_models.pocket.scenes.texts import SPLITS, WORDS, plate_text, sign_text, split_of

SIZES = [(224, 224), (448, 336), (500, 350)]


def scene(split="train", seed=0, index=0, size=(448, 448)):
    return make_scene(scene_rng(split, seed, index), *size, split)


def test_equal_seeds_draw_equal_scenes():
    first, second = scene("test", 3, 5), scene("test", 3, 5)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert first.objects == second.objects


@pytest.mark.parametrize("other", [("test", 3, 6), ("test", 4, 5), ("validation", 3, 5)])
def test_other_seeds_draw_other_scenes(other):
    assert scene("test", 3, 5).objects != scene(*other).objects


def test_splits_share_no_photograph_and_no_word():
    photos = [name for split in SPLITS for name in PHOTOS[split]]
    words = [word for split in SPLITS for word in WORDS[split]]
    assert max(Counter(photos).values()) == 1
    assert max(Counter(words).values()) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_every_photograph_is_installed(split):
    for name in PHOTOS[split]:
        assert photo(name).mode == "RGB"


@pytest.mark.parametrize("split", SPLITS)
def test_signs_and_plates_keep_to_their_split(split):
    rng = scene_rng(split, 0, 0)
    texts = [draw(rng, split) for draw in (sign_text, plate_text) for _ in range(100)]
    assert {split_of(text) for text in texts} == {split}


@pytest.mark.parametrize("size", SIZES)
def test_boxes_lie_inside_the_image_and_apart(size):
    for index in range(8):
        drawn = scene(index=index, size=size)
        assert drawn.image.size == size
        used = np.zeros((size[1], size[0]), int)
        for item in drawn.objects:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            used[top:bottom, left:right] += 1
            x0, y0, x1, y1 = item.relevant
            assert left <= x0 < x1 <= right
            assert top <= y0 < y1 <= bottom
            for _, x, y in item.glyphs:
                assert x0 <= x <= x1
                assert y0 <= y <= y1
        assert used.max() <= 1


def test_glyphs_spell_the_text():
    for index in range(8):
        for item in scene(index=index).objects:
            assert "".join(character for character, _, _ in item.glyphs) == item.text


def test_the_written_box_holds_the_ink():
    for index in range(8):
        rng = scene_rng("train", 4, index)
        for item in (o for o in make_scene(rng, 448, 448, "train", photos=()).objects if o.text):
            sprite, _, (left, top, right, bottom) = lettered_sprite(
                rng, item.kind, item.colour, item.text, "DejaVuSans-Bold.ttf", 34
            )
            inner = np.asarray(sprite.convert("RGB"), int)[4:-4, 4:-4]
            away = np.abs(inner - np.median(inner.reshape(-1, 3), axis=0)).sum(2) > 200
            rows, columns = (np.flatnonzero(away.any(axis)) + 4 for axis in (1, 0))
            assert top - 2 <= rows[0] < rows[-1] <= bottom + 2
            assert left - 2 <= columns[0] < columns[-1] <= right + 2
            assert columns[-1] - columns[0] > 0.5 * (right - left)


def test_lettered_scenes_have_more_to_read():
    def letters(contents):
        scenes = (make_scene(scene_rng("train", 2, i), 224, 224, "train", contents) for i in range(12))
        return sum(len(o.text) for drawn in scenes for o in drawn.objects if o.kind == "sign")

    assert letters("lettered") > 2 * letters("usual")


def expected_answer(kind, text, objects):
    """Answer a question from its words alone, unlike the generator."""
    words = text.rstrip("?.").split()
    colour = next((word for word in words if word in COLOURS), None)
    shape = next((name for name in SHAPES for word in words if word in (name, name + "s", name + "es")), None)
    same = [
        item
        for item in objects
        if item.kind in SHAPES and (colour is None or item.colour == colour) and (shape is None or item.kind == shape)
    ]
    if kind == "exist":
        return "yes" if same else "no"
    if kind == "count":
        return str(len(same))
    if kind in ("colour", "shape"):
        (item,) = same
        return item.colour if kind == "colour" else item.kind
    bearer = {"digit": "card", "word": "sign", "number": "plate"}[kind]
    (item,) = [o for o in objects if o.kind == bearer and colour in (None, o.colour)]
    return item.text


def test_answers_and_boxes_agree_with_the_scene():
    seen = Counter()
    for index in range(25):
        rng = scene_rng("test", 1, index)
        objects = make_scene(rng, 448, 448, "test").objects
        for question in ask(rng, objects, 14):
            seen[question.type] += 1
            assert question.answer == expected_answer(question.type, question.text, objects), question
            assert set(question.boxes) <= {item.written or item.box for item in objects}
            if question.type == "count":
                assert int(question.answer) == len(question.boxes) <= MAX_COUNT
            elif question.answer != "no":
                assert question.boxes
    assert set(seen) == set(TYPES)


def test_held_out_samples_are_reproducible_and_counted():
    first, second = list(samples(20, seed=2)), list(samples(20, seed=2))
    assert [sample.question for sample in first] == [sample.question for sample in second]
    assert len(first) == 20
    assert [sample.scene for sample in first].count(0) == QUESTIONS_PER_SCENE
    assert [s.question for s in samples(20, seed=2, split="validation")] != [s.question for s in first]
