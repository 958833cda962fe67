"""What the middleware adapters do with raw pixels, without any middleware; tests/robots has the real ones."""

import array
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.places import ROOT

from glimpse_runtime import Frame, ImageError, InputError
from glimpse_runtime.adapters.raw import raw_image
from glimpse_runtime.adapters.worker import QuestionWorker
from glimpse_runtime.inputs.images import ENCODINGS, read_image


def flat_rows(frame: np.ndarray, padding: int) -> np.ndarray:
    """The bytes of an image whose rows are followed by ``padding`` bytes of rubbish."""
    rows = np.pad(frame.reshape(len(frame), -1), ((0, 0), (0, padding)), constant_values=171)
    return np.ascontiguousarray(rows).reshape(-1)


@pytest.mark.parametrize("padding", [0, 1, 13])
@pytest.mark.parametrize("kind", [np.asarray, bytes, memoryview, lambda flat: array.array("B", flat.tobytes())])
def test_step_padding_is_skipped(photo: np.ndarray, padding: int, kind: type) -> None:
    image = raw_image(kind(flat_rows(photo, padding)), 168, 224, "rgb8", 224 * 3 + padding)
    assert np.array_equal(image, photo)
    assert not image.flags.writeable
    assert np.array_equal(np.asarray(read_image(image, "rgb8")), photo)


def test_nothing_is_copied(photo: np.ndarray) -> None:
    flat = flat_rows(photo, 5)
    assert np.shares_memory(raw_image(flat, 168, 224, "bgr8", 224 * 3 + 5), flat)


def test_the_last_row_needs_no_padding(photo: np.ndarray) -> None:
    flat = flat_rows(photo, 7)[:-7]
    assert np.array_equal(raw_image(flat, 168, 224, "rgb8", 224 * 3 + 7), photo)
    with pytest.raises(ImageError, match="need"):
        raw_image(flat[:-1], 168, 224, "rgb8", 224 * 3 + 7)


def test_every_encoding_of_the_runtime(photo: np.ndarray) -> None:
    alpha = np.full_like(photo[..., :1], 9)
    frames = {
        "rgb8": photo,
        "bgr8": photo[..., ::-1],
        "rgba8": np.concatenate([photo, alpha], axis=-1),
        "bgra8": np.concatenate([photo[..., ::-1], alpha], axis=-1),
        "mono8": photo[..., :1],
    }
    assert set(frames) == set(ENCODINGS)
    for encoding, frame in frames.items():
        image = raw_image(flat_rows(frame, 3), 168, 224, encoding, 224 * frame.shape[-1] + 3)
        expected = photo if encoding != "mono8" else np.repeat(photo[..., :1], 3, axis=-1)
        assert np.array_equal(np.asarray(read_image(image, encoding)), expected), encoding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "yuv422_yuy2"}, "'yuv422_yuy2'; accepted are rgb8, bgr8, rgba8, bgra8, mono8"),
        ({"encoding": "16UC1"}, "'16UC1'"),
        ({"step": 11}, "step is 11 bytes, but 4 pixels of rgb8 need 12"),
        ({"height": 0}, "height must be at least 1, found 0"),
        ({"height": 3}, "has 24 bytes; 4 x 3 pixels of rgb8 with step 12 need 36"),
        ({"data": np.zeros(24, np.float32)}, "float32"),
        ({"data": np.zeros((2, 12), np.uint8)}, "2 dimensions"),
    ],
)
def test_refusals_say_what_and_why(changes: dict[str, object], message: str) -> None:
    options: dict[str, object] = {"data": bytes(24), "height": 2, "width": 4, "encoding": "rgb8", "step": 12}
    with pytest.raises(ImageError, match=message):
        raw_image(**{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("adapter", "blocked"), [("video", "cv2"), ("ros2", "rclpy"), ("dora", "dora")])
def test_missing_middleware_is_named_with_its_extra(adapter: str, blocked: str) -> None:
    code = f"import sys; sys.modules[{blocked!r}] = None; import glimpse_runtime.adapters.{adapter}"
    path = {"PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path, check=False)
    assert "ImportError: " in done.stderr
    assert f'pip install "glimpse-edge[{adapter}]"' in done.stderr


class Log:
    """Keeps what a worker says."""

    def __init__(self) -> None:
        self.answered: list[tuple[float | None, str]] = []
        self.refused: list[str] = []
        self.crashes = 0
        self.go_on = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def answer(self, frame: Frame, question: str) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=5)
        if question == "bad":
            raise InputError("no such question")
        if question == "bug":
            raise RuntimeError("boom")
        self.answered.append((frame.stamp, question))

    def crash(self) -> None:
        self.crashes += 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def worker(log: Log) -> Iterator[QuestionWorker]:
    worker = QuestionWorker(log.answer, log.refused.append, log.crash)
    yield worker
    log.go_on.release(100)
    worker.close()


def test_questions_are_about_the_newest_frame(log: Log, worker: QuestionWorker, photo: np.ndarray) -> None:
    worker.ask("first")
    assert not log.begun.acquire(timeout=0.05)  # no frame yet
    for stamp in (1.0, 2.0):
        worker.frames.put(photo, stamp=stamp)
    assert log.begun.acquire(timeout=5)
    worker.ask("second")
    worker.frames.put(photo, stamp=3.0)
    worker.frames.put(photo, stamp=4.0)
    log.go_on.release()
    assert log.begun.acquire(timeout=5)
    worker.ask("third, nothing new")
    log.go_on.release()
    assert log.begun.acquire(timeout=5)
    log.go_on.release()
    worker.close()
    assert [stamp for stamp, _ in log.answered[1:]] == [4.0, 4.0]
    assert [question for _, question in log.answered] == ["first", "second", "third, nothing new"]


def test_a_refused_question_does_not_stop_the_worker(log: Log, worker: QuestionWorker, photo: np.ndarray) -> None:
    worker.frames.put(photo)
    worker.ask("bad")
    worker.ask("good")
    for _ in range(2):
        assert log.begun.acquire(timeout=5)
        log.go_on.release()
    worker.close()
    assert log.refused == ["no such question"]
    assert [question for _, question in log.answered] == ["good"]
    assert log.crashes == 0


def test_too_many_questions_are_refused_at_once(log: Log, worker: QuestionWorker) -> None:
    for number in range(12):
        worker.ask(f"question {number}")
    assert 3 <= len(log.refused) <= 4  # one may be in the thread's hands
    assert log.refused[-1] == "8 questions wait already; not answered: question 11"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_is_reported_and_ends_the_thread(log: Log, worker: QuestionWorker, photo: np.ndarray) -> None:
    worker.frames.put(photo)
    worker.ask("bug")
    log.go_on.release()
    worker._thread.join(5)
    assert log.crashes == 1
