"""Streams: what is computed of a frame again, and how far what is not lies from a full pass."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streaming import CELL, QUESTION, Traced, changed, noisy, picture, window
from support.slow import few

from glimpse_runtime import (
    BackendError,
    BundleFormatError,
    Frame,
    GlimpseError,
    InputError,
    PruningError,
    Scene,
    Session,
    SessionError,
    Stream,
    load,
)
from glimpse_runtime.backends.fake import FakeBackend
from glimpse_runtime.backends.host import host
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.interrupt import Interrupt, Interrupted
from glimpse_runtime.pruning.report import StreamReport
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.update import UpdateEngine

# Updates of one or two of 12 windows of 18 such frames lay 0.001 to 0.042 from a full pass.
BOUND = 0.08


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


@pytest.fixture
def stream(streaming: Traced) -> Iterator[Stream]:
    with streaming.vlm.stream() as opened:
        yield opened


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many patches each run of the graph took."""
    taken: list[int] = []
    original = UpdateEngine.update

    def counting(self: UpdateEngine, inputs: Any, *others: Any) -> Any:
        taken.append(len(inputs["rows"]))
        return original(self, inputs, *others)

    monkeypatch.setattr(UpdateEngine, "update", counting)
    return taken


def report_of(stream: Stream, frame: Any) -> StreamReport:
    found = stream.update(frame).ask(QUESTION, max_new_tokens=1).pruning.stream
    assert found is not None
    return found


def visual(scene: Scene) -> list[np.ndarray]:
    """Embeddings and taps of a scene's image."""
    (tokens,) = scene._open().visual
    return [host(tokens.embeds), host(tokens.features)]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_an_unchanged_frame_costs_no_vision(stream: Stream, streaming: Traced, runs: list[int]) -> None:
    first = stream.update(picture()).ask(QUESTION, max_new_tokens=6)
    embeds = streaming.embeds
    scene = stream.update(picture())
    again = scene.ask(QUESTION, max_new_tokens=6)
    assert runs == [4 * 192]
    assert np.array_equal(streaming.embeds, embeds)
    assert again.text == first.text
    assert first.pruning.stream == StreamReport(1.0, 0, 0)
    assert again.pruning.stream == StreamReport(0.0, 192, 1)


def test_the_first_frame_and_another_picture_are_what_the_vision_graph_gives(
    stream: Stream, streaming: Traced, whole: Traced
) -> None:
    for seed in (0, 1):
        scene, expected = stream.update(picture(seed)), whole.vlm.encode(picture(seed))
        np.testing.assert_allclose(streaming.embeds, whole.embeds, atol=2e-5)
        answer = scene.ask(QUESTION, max_new_tokens=6)
        assert answer.pruning.stream == StreamReport(1.0, 0, 0)
        assert answer.text == expected.ask(QUESTION, max_new_tokens=6).text


def test_one_changed_cell_has_its_window_computed(
    stream: Stream, streaming: Traced, whole: Traced, runs: list[int]
) -> None:
    stream.update(picture())
    before = streaming.embeds
    after = changed(picture(), 5, 9)
    assert report_of(stream, after) == StreamReport(16 / 192, 176, 1)
    assert runs[1:] == [4 * 16]
    whole.vlm.encode(after)
    inside = window(5, 9)
    assert np.array_equal(streaming.embeds[~inside], before[~inside])
    assert error(before[inside], whole.embeds[inside]) > 5 * error(streaming.embeds[inside], whole.embeds[inside])
    assert 0 < error(streaming.embeds, whole.embeds) < BOUND


def test_a_scene_stays_as_it_was_made(stream: Stream) -> None:
    scene = stream.update(picture())
    before, report = [array.copy() for array in visual(scene)], scene.ask(QUESTION, max_new_tokens=1).pruning
    stream.update(changed(picture(), 0, 0))
    for now, then in zip(visual(scene), before, strict=True):
        assert np.array_equal(now, then)
    assert scene.ask(QUESTION, max_new_tokens=1).pruning.stream == report.stream


@pytest.mark.parametrize("sigma", few([1.0, 2.0, 5.0], [2.0]))
def test_noise_is_no_change_and_a_change_is_seen_through_it(stream: Stream, sigma: float) -> None:
    stream.update(noisy(picture(), 0, sigma))
    for seed in range(1, 5):
        assert report_of(stream, noisy(picture(), seed, sigma)).reused == 192
    found = report_of(stream, noisy(changed(picture(), 11, 15, 30), 6, sigma))
    assert found.reused == 176


@pytest.mark.parametrize("busy", few([False, True], [True]))
def test_slow_change_adds_up_against_what_was_computed(stream: Stream, busy: bool) -> None:
    """Half a level a frame is less than noise, also where another window changes in every frame."""
    stream.update(noisy(picture(), 0))
    shares = []
    for step in range(1, 21):
        frame = picture().astype(np.float32)
        if busy:
            frame[-112:, -112:] += 40 * (step % 2)
        frame[:112, :112] += step * 0.5
        shares.append(report_of(stream, noisy(frame, step)).changed_share - busy * 16 / 192)
    assert shares[:4] == pytest.approx([0.0] * 4)
    assert max(shares) == pytest.approx(16 / 192)
    assert 1 <= sum(share > 0.01 for share in shares) <= 8


@pytest.mark.parametrize("by", [8, -8])
def test_other_light_is_a_change_of_everything(stream: Stream, by: int) -> None:
    stream.update(noisy(picture(), 0))
    assert report_of(stream, noisy(picture() + np.int16(by), 1)) == StreamReport(1.0, 0, 0)


def test_everything_is_computed_every_few_frames_and_where_much_changed(streaming: Traced) -> None:
    stream = streaming.vlm.stream(refresh=3)
    ages = [report_of(stream, picture()).age for _ in range(7)]
    assert ages == [0, 1, 2, 0, 1, 2, 0]
    most = picture()
    most[:, : 12 * CELL] = picture(5)[:, : 12 * CELL]
    assert report_of(stream, most).age == 0
    assert report_of(stream, picture(0, (8, 8))) == StreamReport(1.0, 0, 0)
    every = streaming.vlm.stream(refresh=1)
    assert [report_of(every, picture()).age for _ in range(2)] == [0, 0]


def test_memory_follows_from_the_size_of_the_frames(stream: Stream) -> None:
    assert stream.nbytes == 0
    held = set()
    for number in range(12):
        stream.update(changed(picture(), number, number))
        held.add(stream.nbytes)
    patches, tokens = 4 * 192, 192
    assert held == {4 * (patches * 1176 + 4 * patches * 128 + 3 * tokens * 128) + tokens}
    stream.update(picture(0, (8, 8)))
    assert stream.nbytes == held.pop() // 3
    stream.close()
    assert stream.nbytes == 0


@pytest.mark.parametrize("failure", [Interrupted, KeyboardInterrupt, BackendError])
def test_an_update_that_did_not_finish_has_everything_computed(
    stream: Stream, streaming: Traced, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    stream.update(picture())

    def half(self: UpdateEngine, inputs: Any, cache: dict[str, np.ndarray], *others: Any) -> Any:
        for array in cache.values():
            array[...] = np.nan
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(UpdateEngine, "update", half)
        with pytest.raises(SessionError if failure is Interrupted else failure):
            stream.update(changed(picture(), 0, 0))
    assert report_of(stream, picture()) == StreamReport(1.0, 0, 0)
    assert np.isfinite(streaming.embeds).all()


def test_a_deadline_ends_an_update(stream: Stream) -> None:
    stream.update(picture())
    with pytest.raises(SessionError, match="deadline"):
        stream.update(changed(picture(), 0, 0), timeout=0)
    assert stream.update(picture()).ask(QUESTION, max_new_tokens=1).text is not None


def test_a_stream_is_busy_when_its_session_is(stream: Stream, streaming: Traced) -> None:
    with streaming.vlm._turns.take(Interrupt()), pytest.raises(SessionError, match="busy"):
        stream.update(picture())


def test_a_session_with_streams_answers_as_before(whole: Traced, photo: np.ndarray) -> None:
    """The graph that updates stands in for the vision graph, for parts of an image as well."""
    with load(scene_cache_bytes=0) as vlm:
        vlm.stream()
        vlm.stream()
        assert vlm.ask(photo, QUESTION).text == whole.vlm.ask(photo, QUESTION).text
        cells = np.arange(10, 30)
        one, other = (visual(session.encode(photo, cells=cells)) for session in (vlm, whole.vlm))
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_frames_carry_their_stamp_and_encoding(stream: Stream) -> None:
    answer = stream.update(Frame(picture(), "bgr8", 3.5)).ask(QUESTION, max_new_tokens=1)
    assert answer.stamp == 3.5
    assert report_of(stream, picture()[:, :, ::-1]).changed_share == 0
    assert stream.update(picture(), encoding="bgr8").stamp is None


@pytest.mark.parametrize("frame", [None, [], [picture()], (picture(), picture()), 3, "", np.zeros((4, 4, 3))], ids=str)
def test_what_is_no_frame_is_refused(stream: Stream, frame: Any) -> None:
    stream.update(picture())
    with pytest.raises(InputError):
        stream.update(frame)
    assert report_of(stream, picture()).age == 1


@pytest.mark.parametrize("options", [{"refresh": value} for value in (0, -1, 2.5, "3", None, True)], ids=str)
def test_options_that_make_no_sense_are_refused(pocket: Session, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="refresh"):
        pocket.stream(**options)


def test_a_stream_that_is_closed_takes_no_frame() -> None:
    with load(warmup="off") as vlm:
        stream, other = vlm.stream(), vlm.stream()
        stream.close()
        with pytest.raises(SessionError, match=r"stream is closed.*session.stream"):
            stream.update(picture())
    with pytest.raises(SessionError, match="load the bundle again"):
        other.update(picture())
    with pytest.raises(SessionError, match="load the bundle again"):
        vlm.stream()


def test_who_cannot_update_is_refused_by_name(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**changes: Any) -> str:
        pipeline = Pipeline(Bundle.open(golden_bundle), FakeBackend())
        for name, value in changes.items():
            monkeypatch.setattr(pipeline, name, value)
        with pytest.raises(GlimpseError) as found:
            pipeline.open_updates()
        return f"{found.type.__name__}: {found.value}"

    whole_images = SimpleNamespace(encodes_parts=False)
    assert refusal().startswith("BackendError: a stream runs on the device cpu, not on fake")
    assert "InputError: " in refusal(family=whole_images)
    host = FakeBackend()
    host.name = "cpu"
    missing = refusal(_backend=host, _update_stage=None)
    assert missing.startswith("BundleFormatError: this bundle has no stage vision_update")
    assert "glimpse-export --model" in missing


def test_methods_that_need_attention_of_the_vision_encoder_are_refused() -> None:
    with load(warmup="off") as vlm:
        vlm.stream()
        pruner = SimpleNamespace(name="method", needs=("vision_attention",))
        with pytest.raises(PruningError, match=r"'method' needs attention.*a session with a stream"):
            vlm._open_pipeline()._selector._require(pruner)  # type: ignore[arg-type]


def test_a_graph_that_cannot_be_loaded_leaves_the_session_whole(
    monkeypatch: pytest.MonkeyPatch, photo: np.ndarray
) -> None:
    with load(warmup="off") as vlm:
        pipeline = vlm._open_pipeline()
        original = pipeline._load

        def refusing(name: str) -> Any:
            if name == "vision_update":
                raise BundleFormatError("no")
            return original(name)

        monkeypatch.setattr(pipeline, "_load", refusing)
        with pytest.raises(BundleFormatError):
            vlm.stream()
        assert vlm.ask(photo, QUESTION).text
