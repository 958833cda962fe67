"""``max_visual_tokens=`` of a question and of a scene."""

from typing import Any

import numpy as np
import pytest

from glimpse_runtime import InputError, Pruning, Session, load


@pytest.fixture
def photo() -> np.ndarray:
    """A picture of 10 x 12 visual tokens."""
    return np.random.default_rng(0).integers(0, 256, (280, 336, 3), np.uint8)


def test_every_image_is_seen_with_at_most_so_many(pocket: Session, photo: np.ndarray) -> None:
    """As an image whose pixels are limited at load; a limit above what it has changes nothing."""
    whole = pocket.ask(photo, "What is it?", max_new_tokens=1)
    assert pocket.ask(photo, "What is it?", max_new_tokens=1, max_visual_tokens=500).pruning.total == 120
    small = pocket.ask(photo, "What is it?", max_new_tokens=1, max_visual_tokens=np.int64(50))
    assert whole.pruning.total == 120
    assert 40 <= small.pruning.total <= 50
    two = pocket.ask([photo, photo[:140]], "What is it?", max_new_tokens=1, max_visual_tokens=50)
    assert [mask.size <= 50 for mask in two.pruning.keep_masks] == [True, True]
    assert two.pruning.total > 50
    with load(max_pixels=50 * 28 * 28, warmup="off", scene_cache_bytes=0) as limited:
        expected = limited.ask(photo, "What is it?", max_new_tokens=4)
        found = pocket.ask(photo, "What is it?", max_new_tokens=4, max_visual_tokens=50)
        assert found.text == expected.text
        assert np.array_equal(found.pruning.scores[0], expected.pruning.scores[0])


def test_a_scene_takes_the_limit_and_its_cells_are_those_of_the_smaller_image(
    pocket: Session, photo: np.ndarray
) -> None:
    with pocket.encode(photo, max_visual_tokens=50, cells=[0, 1, 41]) as scene:
        answer = scene.ask("What is it?", pruning=Pruning(enabled=False), max_new_tokens=1)
    assert answer.pruning.kept == 3
    assert answer.pruning.total <= 50
    with pytest.raises(InputError, match="cell"):
        pocket.encode(photo, max_visual_tokens=50, cells=[60])


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8", np.nan], ids=str)
def test_numbers_that_make_no_sense_are_refused(pocket: Session, photo: np.ndarray, wrong: Any) -> None:
    for call in (pocket.ask, pocket.encode):
        words = ("What is it?",) if call == pocket.ask else ()
        with pytest.raises(InputError, match="max_visual_tokens"):
            call(photo, *words, max_visual_tokens=wrong)  # type: ignore[arg-type, operator]


def test_a_family_of_one_size_refuses_by_name() -> None:
    pytest.importorskip("glimpse_models")
    from glimpse_models.llava_1_5.light.family import Llava15
    from glimpse_models.llava_1_5.light.record import ImageRules, Record

    family = Llava15(Record(ImageRules(14, 112, (112,), True, (0.5,) * 3, (0.5,) * 3, 1 / 255)))
    assert family.at_most(64) is family
    with pytest.raises(InputError, match=r"LLaVA-1\.5 .* 64 visual tokens"):
        family.at_most(63)
