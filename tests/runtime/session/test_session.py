"""Asking: the same answer from every form of input, streaming, limits, and clear refusals."""

import dataclasses
import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse_runtime import (
    Frame,
    ImageError,
    InputError,
    PromptError,
    Pruning,
    PruningError,
    Sampling,
    Session,
    SessionError,
    load,
)
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.session import DEFAULT_MAX_NEW_TOKENS
from glimpse_runtime.steps.pipeline import Pipeline

QUESTION = "What colour is the circle?"


def letters(tokens: object, logits: np.ndarray) -> np.ndarray:
    """Keeps the first hundred tokens: bytes and letters, none of which ends an answer."""
    masked = np.full_like(logits, -np.inf)
    masked[:100] = logits[:100]
    return masked


LETTERS = Sampling(processors=(letters,))


def test_one_answer_from_every_form_of_image(pocket: Session, photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    forms = [photo, Image.fromarray(photo), path, str(path), path.read_bytes(), [photo], (path,)]
    answers = [pocket.ask(form, QUESTION) for form in forms]
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.pruning.kept for answer in answers}) == 1
    bgr = pocket.ask(photo[..., ::-1], QUESTION, encoding="bgr8")
    assert bgr.text == answers[0].text


def test_streaming_equals_text(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo, "What word is on the sign?", max_new_tokens=8)
    pieces = list(answer)
    assert "".join(pieces) == answer.text
    assert answer.finish_reason in ("stop", "length")
    assert list(answer) == []


def test_report_describes_what_was_kept(pocket: Session, photo: np.ndarray) -> None:
    report = pocket.ask([photo, photo[:56, :56]], QUESTION).pruning
    assert report.method == "glimpse"
    assert [mask.shape for mask in report.keep_masks] == [score.shape for score in report.scores]
    assert report.total == sum(mask.size for mask in report.keep_masks)
    assert report.kept == sum(int(mask.sum()) for mask in report.keep_masks) >= 1
    rule = pocket.bundle.manifest.pruning
    if rule.max_keep_ratio is None:
        over = [score > np.float32(rule.threshold) for score in report.scores]
        if sum(int(mask.sum()) for mask in over):
            assert all(np.array_equal(mask, kept) for mask, kept in zip(over, report.keep_masks, strict=True))


def test_nothing_is_pruned_silently(pocket: Session, photo: np.ndarray) -> None:
    off = pocket.ask(photo, QUESTION, pruning=Pruning(enabled=False)).pruning
    assert (off.method, off.kept, off.reason) == ("none", off.total, "pruning was switched off")
    text = pocket.ask([], "Hello").pruning
    assert (text.method, text.total, text.reason) == ("none", 0, "the prompt has no image")
    everything = pocket.ask(photo, QUESTION, pruning=Pruning(threshold=0.0, max_keep_ratio=1.0)).pruning
    assert everything.kept == everything.total
    assert everything.reason == "every visual token was kept"


def test_pruning_options_are_per_request(pocket: Session, photo: np.ndarray) -> None:
    capped = pocket.ask(photo, QUESTION, pruning=Pruning(threshold=0.0, max_keep_ratio=0.25)).pruning
    assert capped.kept == int(0.25 * capped.total)
    floor = pocket.ask(photo, QUESTION, pruning=Pruning(threshold=1.0, min_keep=3)).pruning
    assert floor.kept == 3
    mask = np.zeros(capped.keep_masks[0].shape, bool)
    mask[1:3, 2] = True
    forced = pocket.ask(photo, QUESTION, pruning=Pruning(keep_masks=[mask])).pruning
    assert forced.method == "mask"
    assert np.array_equal(forced.keep_masks[0], mask)
    nothing = pocket.ask(photo, QUESTION, pruning=Pruning(keep_masks=[mask & False])).pruning
    assert nothing.kept == 0


def test_keeping_all_equals_not_pruning(pocket: Session, photo: np.ndarray) -> None:
    kept = pocket.ask(photo, QUESTION, pruning=Pruning(threshold=0.0, max_keep_ratio=1.0), max_new_tokens=8)
    plain = pocket.ask(photo, QUESTION, pruning=Pruning(enabled=False), max_new_tokens=8)
    assert kept.text == plain.text
    assert kept.token_ids == plain.token_ids


def test_max_new_tokens_and_stats(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo[1:], "How many stars are there?", max_new_tokens=1)
    _ = answer.text
    assert answer.stats.new_tokens == len(answer.token_ids) == 1
    assert answer.stats.ttft_ms > 0
    assert answer.stats.stage_ms["vision"] > 0
    assert answer.stats.prompt_tokens > answer.pruning.total == answer.stats.visual_tokens
    assert answer.stats.kept_tokens == answer.pruning.kept
    assert DEFAULT_MAX_NEW_TOKENS == 128


def test_max_pixels_shrinks_images(photo: np.ndarray) -> None:
    with load(max_pixels=28 * 28 * 12) as vlm:
        assert vlm.ask(photo, QUESTION).pruning.total <= 12
    with pytest.raises(InputError, match="max_pixels must be at least 784"):
        load(max_pixels=100)


def test_unusable_requests_are_refused_before_compute(pocket: Session, photo: np.ndarray) -> None:
    with pytest.raises(ImageError):
        pocket.ask("no-such-file.png", QUESTION)
    with pytest.raises(PromptError, match="rows of context, the bundle has"):
        pocket.ask(photo, "word " * 20_000)
    with pytest.raises(PromptError, match="rows of context"):
        pocket.ask([photo] * 120, QUESTION)
    with pytest.raises(PruningError, match="min_keep is 99999"):
        pocket.ask(photo, QUESTION, pruning=Pruning(min_keep=99_999))
    with pytest.raises(PruningError, match="the image's merged grid"):
        pocket.ask(photo, QUESTION, pruning=Pruning(keep_masks=[np.zeros((1, 1), bool)]))
    with pytest.raises(InputError, match="max_new_tokens"):
        pocket.ask(photo, QUESTION, max_new_tokens=0)
    assert pocket.ask(photo, QUESTION, max_new_tokens=1).text is not None


def test_an_image_over_the_profile_names_the_option(golden_bundle: Path) -> None:
    """Export keeps image rules within the profile; where a manifest says otherwise, the image is refused."""
    bundle = Bundle.open(golden_bundle)
    record = dict(bundle.manifest.family)
    wide = {**record, "images": {**record["images"], "max_pixels": 10**8}}
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, family=wide))
    side = 28 * (int(bundle.manifest.profiles["visual_tokens"].max ** 0.5) + 2)
    ids = [1, *[bundle.manifest.tokens.image] * (side // 28) ** 2, 2]
    with (
        Session(bundle, Pipeline(bundle, open_backend("cpu"))) as vlm,
        pytest.raises(PromptError, match="--max-pixels"),
    ):
        vlm.ask_ids(np.zeros((side, side, 3), np.uint8), ids)


def test_token_ids_are_checked(golden_bundle: Path) -> None:
    with load(golden_bundle) as vlm:
        with pytest.raises(PromptError, match="no tokenizer; use ask_ids"):
            vlm.ask([], "Hello")
        with pytest.raises(PromptError, match=r"must lie in 0\.\.511"):
            vlm.ask_ids([], [1, 512])
        with pytest.raises(PromptError, match="non-empty"):
            vlm.ask_ids([], [])
        with pytest.raises(PromptError, match="the prompt has 0 image tokens, its images need 4"):
            vlm.ask_ids(np.zeros((56, 56, 3), np.uint8), [1, 2])
        image = vlm.bundle.manifest.tokens.image
        ending = vlm.ask_ids(np.zeros((56, 56, 3), np.uint8), [1, 2, image, image, image, image], max_new_tokens=2)
        assert ending.text == ""
        assert len(ending.token_ids) == 2
        answer = vlm.ask_ids([], [1, 2, 3], max_new_tokens=4, eos=[])
        assert answer.text == ""
        assert len(answer.token_ids) == 4


def test_an_answer_stops_when_the_cache_is_full(golden_bundle: Path, tmp_path: Path, golden: Path) -> None:
    from glimpse_export import ExportOptions, export

    options = ExportOptions(str(golden / "base"), str(golden / "adapter"), tokenizer=False, max_context=16)
    with load(export(options, tmp_path / "short")) as vlm:
        answer = vlm.ask_ids([], [1, 2, 3, 4], max_new_tokens=50, eos=[])
        assert answer.text == ""
        assert (answer.finish_reason, len(answer.token_ids)) == ("length", 13)
        with pytest.raises(PromptError, match="--max-context"):
            vlm.ask_ids([], list(range(16)))


def test_an_answer_nobody_has_read_yet_survives_the_next_question(pocket: Session, photo: np.ndarray) -> None:
    question = "What word is on the sign?"
    alone = pocket.ask(photo, question, max_new_tokens=9).text
    held = pocket.ask(photo, question, max_new_tokens=9)
    pocket.ask(photo[::-1], QUESTION)
    assert held.text == "".join(held) == alone
    assert held.finish_reason in ("stop", "length")


def test_an_answer_that_was_begun_and_left_is_cancelled(pocket: Session, photo: np.ndarray) -> None:
    left = pocket.ask(photo, "Hello", max_new_tokens=300, sampling=LETTERS)
    first = next(iter(left))
    start = time.monotonic()
    assert pocket.ask(photo, QUESTION, timeout=5).finish_reason != "deadline"
    assert time.monotonic() - start < 3
    assert left.text == first
    assert left.finish_reason == "cancelled"


def test_completing_an_earlier_answer_respects_the_deadline(pocket: Session, photo: np.ndarray) -> None:
    earlier = pocket.ask(photo, "Hello", max_new_tokens=100_000, sampling=LETTERS)
    start = time.monotonic()
    late = pocket.ask(photo, QUESTION, timeout=0.1)
    assert time.monotonic() - start < 2
    assert late.finish_reason == "deadline" or late.text == ""
    assert earlier.finish_reason == "cancelled"


def test_a_failure_never_becomes_a_shorter_answer(pocket: Session, photo: np.ndarray) -> None:
    calls: list[int] = []

    def fail_later(tokens: object, logits: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > 4:
            raise ZeroDivisionError("a processor failed")
        return letters(tokens, logits)

    answer = pocket.ask(photo, "Hello", sampling=Sampling(processors=(fail_later,)))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = answer.text
    assert answer.finish_reason is None
    held = pocket.ask(photo, "Hello", sampling=Sampling(processors=(fail_later,))) if len(calls) < 4 else answer
    assert pocket.ask(photo, QUESTION).text is not None
    with pytest.raises(ZeroDivisionError):
        _ = held.text


def test_one_answer_is_read_by_one_thread(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo, "Hello", max_new_tokens=20, sampling=LETTERS)
    with answer._busy, pytest.raises(SessionError, match="another thread"):
        _ = answer.text
    assert len(answer.text) > 0


def test_an_answer_that_was_dropped_is_not_completed(pocket: Session, photo: np.ndarray) -> None:
    """Nothing but the caller keeps an answer alive, so it is gone at once and the next question need not wait."""
    gc.disable()
    try:
        dropped = weakref.ref(pocket.ask(photo, "What word is on the sign?", max_new_tokens=9))
        assert dropped() is None
        for _ in pocket.ask(photo, "What word is on the sign?", max_new_tokens=9):
            break
        assert pocket._turns._unfinished is not None
        assert pocket._turns.left is None
    finally:
        gc.enable()


def test_a_dropped_session_frees_its_engines_at_once() -> None:
    """Nothing in it refers to itself in a circle: gigabytes would wait for the garbage collector."""
    vlm = load(warmup="off", scene_cache_bytes=0)
    engines = [weakref.ref(engine) for engine in vlm._open_pipeline()._engines.values()]
    gc.disable()
    try:
        del vlm
        assert [engine() for engine in engines] == [None] * len(engines)
    finally:
        gc.enable()


def test_a_closed_session_says_so(photo: np.ndarray) -> None:
    vlm = load()
    vlm.close()
    vlm.close()
    with pytest.raises(SessionError, match="closed"):
        vlm.ask(photo, QUESTION)


def test_a_busy_session_says_so_and_two_sessions_run_side_by_side(photo: np.ndarray) -> None:
    with load() as vlm:
        with vlm._turns.take(Interrupt()), pytest.raises(SessionError, match="busy"):
            vlm.ask(photo, QUESTION)
        expected = vlm.ask(photo, QUESTION).text
    found: list[str] = []

    def work() -> None:
        with load() as own:
            found.extend(own.ask(photo, QUESTION).text for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 1.5}, "whole number"),
        ({"timeout": "1"}, "number of seconds"),
        ({"timeout": float("nan")}, "number of seconds"),
        ({"system": 5}, "system message must be a str"),
        ({"question": "\udcff"}, "not valid Unicode"),
        ({"encoding": "yuv"}, "cannot use encoding 'yuv'"),
    ],
)
def test_odd_options_are_refused_clearly(
    pocket: Session, photo: np.ndarray, options: dict[str, object], message: str
) -> None:
    question = options.pop("question", QUESTION)
    with pytest.raises(InputError, match=message):
        pocket.ask(photo, question, **options)  # type: ignore[arg-type]


def test_an_infinite_timeout_is_none(pocket: Session, photo: np.ndarray) -> None:
    for timeout in (float("inf"), 1e12):
        assert pocket.ask(photo, QUESTION, timeout=timeout).text == pocket.ask(photo, QUESTION).text


def test_encoding_and_frames_agree_or_are_refused(pocket: Session, photo: np.ndarray) -> None:
    expected = pocket.ask(photo, QUESTION)
    assert pocket.ask(Frame(photo[..., ::-1]), QUESTION, encoding="bgr8").pruning.kept == expected.pruning.kept
    with pytest.raises(InputError, match="contradicts"):
        pocket.ask(Frame(photo, "rgb8"), QUESTION, encoding="bgr8")


def test_threads_are_limited_by_the_machine() -> None:
    with pytest.raises(InputError, match="threads must lie in"):
        load(threads=100_000)
    with pytest.raises(InputError, match="threads must lie in"):
        load(threads=-5)


def test_max_pixels_never_raises_the_limit(photo: np.ndarray) -> None:
    with load(max_pixels=10**9) as vlm:
        assert vlm._reading.family._record == open_family(vlm.bundle.manifest)._record  # type: ignore[attr-defined]


def test_peak_memory_is_that_of_the_process(pocket: Session, photo: np.ndarray) -> None:
    peak = pocket.ask(photo, QUESTION).stats.peak_bytes
    assert peak is not None
    assert 50e6 < peak < 50e9
