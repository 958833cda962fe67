"""Requests that zoom: a small copy first, then the places that matter at their native positions."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse_models.pocket.scenes.heldout import Sample, samples
from glimpse_runtime import Pruning, PruningError, Session, load
from glimpse_runtime.pruning import overlay
from glimpse_runtime.stats import SCOUT_STAGES

ZOOM = Pruning(zoom=0.25)


@pytest.fixture(scope="module")
def big() -> Sample:
    """A question about an image of 391 visual tokens."""
    return next(sample for sample in samples(40) if sample.image.size == (640, 480))


@pytest.fixture(scope="module")
def vlm() -> Any:
    with load(scene_cache_bytes=0) as session:
        yield session


def test_a_zoom_answers_as_a_scene_of_its_places_does(vlm: Session, big: Sample) -> None:
    answer = vlm.ask(big.image, big.question.text, pruning=Pruning(zoom=0.25, zoom_gate=0), max_new_tokens=6)
    zoom, spent = answer.pruning.zoom, answer.stats.stage_ms
    assert zoom is not None
    assert zoom.mask is not None
    assert (answer.pruning.method, zoom.reason, answer.pruning.reason) == ("zoom", None, None)
    assert np.array_equal(answer.pruning.keep_masks[0], zoom.mask)
    assert answer.pruning.kept == zoom.mask.sum() < answer.pruning.total == zoom.mask.size
    part = vlm.encode(big.image, cells=zoom.mask).ask(
        big.question.text, pruning=Pruning(enabled=False), max_new_tokens=6
    )
    assert answer.text == part.text
    assert answer.token_ids == part.token_ids
    assert all(spent[stage] > 0 for stage in (*SCOUT_STAGES, "vision", "lower", "upper"))
    assert not any(spent[stage] for stage in ("score", "select", "compact"))


def test_the_copy_is_scored_as_a_picture_of_its_size_is(vlm: Session, big: Sample) -> None:
    """The scores are those that the same picture, shrunk by the family's own rule, gets by itself."""
    zoom = vlm.ask(big.image, big.question.text, pruning=ZOOM, max_new_tokens=1).pruning.zoom
    assert zoom is not None
    assert zoom.scores is not None
    pixels = int(0.25 * zoom.mask.size * 28**2) if zoom.mask is not None else 0
    with load(scene_cache_bytes=0, max_pixels=pixels) as small:
        alone = small.ask(big.image, big.question.text, max_new_tokens=1).pruning
    assert np.allclose(zoom.scores, alone.scores[0], atol=1e-5)


def test_an_image_encoded_whole_is_answered_as_without_zoom(vlm: Session, big: Sample) -> None:
    plain = vlm.ask(big.image, big.question.text, max_new_tokens=6)
    answer = vlm.ask(big.image, big.question.text, pruning=Pruning(zoom=0.25, zoom_gate=1), max_new_tokens=6)
    assert answer.pruning.zoom is not None
    assert "the gate is 1" in str(answer.pruning.zoom.reason)
    assert answer.text == plain.text
    assert answer.token_ids == plain.token_ids
    assert np.array_equal(answer.pruning.keep_masks[0], plain.pruning.keep_masks[0])
    assert answer.pruning.method == "glimpse"


def test_the_smallest_copy_has_the_tokens_that_are_followed(vlm: Session, big: Sample) -> None:
    for share in (1e-9, 0.001):
        zoom = vlm.ask(
            big.image, "What is it?", pruning=Pruning(zoom=share, zoom_gate=0), max_new_tokens=1
        ).pruning.zoom
        assert zoom is not None
        assert zoom.scores is not None
        assert 1 <= zoom.scores.size <= 4


def test_what_cannot_be_zoomed_says_why(vlm: Session, big: Sample, photo: np.ndarray) -> None:
    for images, reason, share in (
        (photo, "visual tokens, zooming needs more than 256", 1),
        ([big.image, big.image], "zooming takes one image, the prompt has 2", 1),
        ([], "zooming takes one image, the prompt has 0", 0),
    ):
        zoom = vlm.ask(images, "What is it?", pruning=ZOOM, max_new_tokens=1).pruning.zoom  # type: ignore[arg-type]
        assert zoom is not None
        assert reason in str(zoom.reason)
        assert zoom.patches_share == share
    zoom = vlm.encode(big.image).ask("What is it?", pruning=ZOOM, max_new_tokens=1).pruning.zoom
    assert zoom is not None
    assert (zoom.reason, zoom.patches_share) == ("the image was encoded before the question", 0)


def test_the_scene_cache_never_keeps_a_part(big: Sample) -> None:
    with load() as session:
        first = session.ask(big.image, big.question.text, pruning=Pruning(zoom=0.25, zoom_gate=0), max_new_tokens=1)
        assert first.pruning.method == "zoom"
        assert session.memory_plan()["scene_bytes"] == 0
        again = session.ask(big.image, big.question.text, max_new_tokens=1)
        assert again.pruning.encoded_masks == ()
        assert again.stats.stage_ms["vision"] > 0


@pytest.mark.parametrize("stage", ["scout_vision", "scout_lower", "scout_score", "vision"])
def test_a_cancel_in_any_stage_ends_the_request(
    vlm: Session, big: Sample, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glimpse_runtime.stats import Stats

    begun, original = [], Stats.stage

    def cancelling(self: Stats, name: str) -> Any:
        begun.append(name)
        if name == stage:
            vlm.cancel()
        return original(self, name)

    monkeypatch.setattr(Stats, "stage", cancelling)
    answer = vlm.ask(big.image, big.question.text, pruning=Pruning(zoom=0.25, zoom_gate=0), max_new_tokens=4)
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("", "cancelled", [])
    assert begun[-1] == stage


def test_a_family_that_sees_whole_images_refuses_zoom(
    vlm: Session, big: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm._pipeline, "family", SimpleNamespace(encodes_parts=False))
    with pytest.raises(PruningError, match="zoom encodes a part of an image"):
        vlm.ask(big.image, "What is it?", pruning=ZOOM)


def test_the_picture_of_a_zoom_has_three_parts(vlm: Session, big: Sample) -> None:
    zoomed = vlm.ask(big.image, big.question.text, pruning=Pruning(zoom=0.25, zoom_gate=0), max_new_tokens=1).pruning
    whole = vlm.ask(big.image, big.question.text, max_new_tokens=1).pruning
    assert zoomed.zoom is not None
    assert zoomed.zoom.mask is not None
    sheet = overlay.sheet([big.image], zoomed)
    width, height = big.image.size
    assert sheet.size == (3 * width + 16, height)
    assert overlay.sheet([big.image], whole).size == big.image.size
    last = sheet.crop((2 * width + 16, 0, 3 * width + 16, height))
    expected = overlay.draw(Image.fromarray(np.asarray(big.image)), zoomed.zoom.mask)
    assert np.array_equal(np.asarray(last), np.asarray(expected))
