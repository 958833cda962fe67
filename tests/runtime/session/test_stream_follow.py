"""``Pruning(follow=)``: of a stream's frame only what was kept, its surroundings and what changed enter layer 0."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from streaming import QUESTION, SHAPE, Traced, changed, picture, window

from glimpse_runtime import PruneReport, Pruning, PruningError, Session


@pytest.fixture(scope="module")
def streaming() -> Iterator[Traced]:
    """A session with streams."""
    traced = Traced()
    with traced.vlm:
        yield traced


@pytest.fixture(scope="module")
def whole() -> Iterator[Traced]:
    """A session that encodes every frame with the vision graph."""
    traced = Traced()
    with traced.vlm:
        yield traced


def test_what_was_kept_its_surroundings_and_what_changed_enter(streaming: Traced) -> None:
    follow = Pruning(follow=1, threshold=0.5, min_keep=5, max_keep_ratio=0.05)
    stream = streaming.vlm.stream(pruning=follow)

    def ask(frame: np.ndarray, question: str = QUESTION) -> PruneReport:
        return stream.update(frame).ask(question, max_new_tokens=1).pruning

    first = ask(picture())
    assert first.stream is not None
    assert first.stream.entered is None
    ask(changed(picture(), 0, 0), "How many stars are there?")
    other = stream.update(changed(changed(picture(), 0, 0), 11, 15))
    again = other.ask(QUESTION, max_new_tokens=1).pruning
    kept = {(row, column) for row, column in np.argwhere(first.keep_masks[0])}
    around = {(row + down, column + across) for row, column in kept for down in (-1, 0, 1) for across in (-1, 0, 1)}
    expected = (window(0, 0) | window(11, 15)).reshape(SHAPE)
    for row, column in around:
        if 0 <= row < SHAPE[0] and 0 <= column < SHAPE[1]:
            expected[row, column] = True
    assert again.stream is not None
    assert again.stream.entered is not None
    assert np.array_equal(again.stream.entered, expected)
    assert not (again.keep_masks[0] & ~expected).any()
    assert (again.encoded_masks, again.kept > 0) == ((), True)
    assert other.ask("How many stars are there?", max_new_tokens=1).pruning.stream.entered.sum() < expected.sum()  # type: ignore[union-attr]
    earlier = stream.update(picture(0, (8, 8))).ask(QUESTION, max_new_tokens=1).pruning
    assert earlier.stream is not None
    assert earlier.stream.entered is None
    late = other.ask(QUESTION, max_new_tokens=1).pruning.stream
    assert late is not None
    assert late.entered is None


def test_a_followed_answer_is_that_of_a_prompt_of_what_entered(streaming: Traced, whole: Traced) -> None:
    """The whole image's tokens are the same, so an image of which only those are known must score alike."""
    follow = Pruning(follow=2, min_keep=9, max_keep_ratio=0.05)
    stream = streaming.vlm.stream(pruning=follow)
    stream.update(picture()).ask(QUESTION, max_new_tokens=1)
    found = stream.update(picture()).ask(QUESTION, max_new_tokens=4)
    assert found.pruning.stream is not None
    entered = found.pruning.stream.entered
    assert entered is not None
    scene = whole.vlm.encode(picture())
    (tokens,) = scene._open().visual
    scene._open().visual, scene._open().prefix = [replace(tokens, encoded=entered.reshape(-1))], None
    expected = scene.ask(QUESTION, pruning=Pruning(min_keep=9, max_keep_ratio=0.05), max_new_tokens=4)
    assert found.token_ids == expected.token_ids
    assert np.array_equal(found.pruning.keep_masks[0], expected.pruning.keep_masks[0])


@pytest.mark.slow
def test_following_holds_little_memory(streaming: Traced) -> None:
    stream = streaming.vlm.stream(pruning=Pruning(follow=1))
    scene = stream.update(picture())
    before = stream.nbytes
    for number in range(70):
        scene.ask(f"What is {number}?", max_new_tokens=1, timeout=None)
    assert stream.nbytes == before + 64 * 2 * 192


def test_only_streams_can_be_followed(pocket: Session, photo: np.ndarray) -> None:
    follow = Pruning(follow=1)
    for ask in (
        lambda: pocket.ask(photo, QUESTION, pruning=follow),
        lambda: pocket.ask_ids([photo], [1], pruning=follow),
        lambda: pocket.encode(photo, pruning=follow),
        lambda: pocket.encode(photo).ask(QUESTION, pruning=follow),
    ):
        with pytest.raises(PruningError, match=r"session.stream\(\)"):
            ask()


@pytest.mark.parametrize(
    "options",
    [
        *({"follow": value} for value in (-1, 65, 1.5, "1", True)),
        *({"follow": 1, **other} for other in ({"pre": "divprune", "pre_keep": 0.5}, {"zoom": 0.25})),
        {"follow": 1, "method": "divprune", "max_keep_ratio": 0.5},
        {"follow": 1, "keep_masks": [np.ones((2, 2), np.bool_)]},
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PruningError, match="follow"):
        Pruning(**options)
