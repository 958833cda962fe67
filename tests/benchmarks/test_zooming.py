"""The comparison of zooming says what was asked and answered."""

import numpy as np
from PIL import Image

from benchmarks.accuracy.comparison import zooming
from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.heldout import samples
from glimpse_runtime import Pruning, load


def test_figures_are_those_of_asking_again() -> None:
    asked = [sample for sample in samples(21) if sample.image.size != (448, 448)]
    small, large = asked[:2], asked[7:10]
    with load(scene_cache_bytes=0) as session:
        seen: list[int] = []
        found = zooming.measure(session, [*small, *large], 0, seen.append)
        answers = [
            session.ask(sample.image, sample.question.text, pruning=Pruning(zoom=0.25), max_new_tokens=MAX_NEW_TOKENS)
            for sample in (*small, *large)
        ]
        right = [a.text == s.question.answer for a, s in zip(answers, (*small, *large), strict=True)]
        plain = [
            session.ask(s.image, s.question.text, pruning=Pruning(enabled=False), max_new_tokens=MAX_NEW_TOKENS).text
            == s.question.answer
            for s in (*small, *large)
        ]
    spent = [a.pruning.zoom.patches_share for a in answers if a.pruning.zoom is not None]
    assert seen == [1, 2, 3, 4, 5]
    assert found["questions"] == 5
    assert found["scenes"] == 2
    assert found["accuracy_zoom"] == np.mean(right)
    assert found["accuracy_unpruned"] == np.mean(plain)
    assert np.isclose(found["patches_share"], np.mean(spent))  # type: ignore[arg-type]
    assert list(found["by_size"]) == ["above the size gate", "64 tokens", "391 tokens"]  # type: ignore[call-overload]


def test_the_floor_has_as_many_pixels_as_zooming_encoded() -> None:
    image = Image.new("RGB", (640, 480))
    shrunk = zooming._shrunk(image, 0.36)
    assert shrunk.size == (384, 288)
    assert zooming._shrunk(image, 1.25) is image
