"""How an answer ends: stop texts, deadlines and cancellation, in decoding and in prefill."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from glimpse_runtime import Frame, InputError, Pruning, Sampling, Session, load
from glimpse_runtime.interrupt import Interrupt, Interrupted
from glimpse_runtime.pruning.report import report_unpruned
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.stats import Stats

LONG = {"max_new_tokens": 400, "sampling": Sampling(processors=(lambda tokens, logits: never_stop(logits),))}


def never_stop(logits: np.ndarray) -> np.ndarray:
    """Keeps the first hundred tokens: bytes and letters, none of which ends an answer."""
    masked = np.full_like(logits, -np.inf)
    masked[:100] = logits[:100]
    return masked


class Letters:
    """A tokenizer whose token n is the n-th piece."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def stream(self) -> "Letters":
        return self

    def push(self, token: int) -> str:
        return self.pieces[token]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[id] for id in ids)


def answer_of(pieces: list[str], *stop: str) -> Answer:
    tokens = iter(range(len(pieces)))
    report = report_unpruned((), "test")
    return Answer(tokens, frozenset(), Letters(pieces), report, Stats(), Interrupt(), stop, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "reason"),
    [
        (["ab", "cd", "ef"], ["cd"], "ab", "stop"),
        (["ab", "cd", "ef"], ["bc"], "a", "stop"),
        (["ab", "cd", "ef"], ["x"], "abcdef", "length"),
        (["a\n", "\nb"], ["\n\n"], "a", "stop"),
        (["ab", "cd"], ["cdx"], "abcd", "length"),
        (["xy", "zz"], ["zz", "yz"], "x", "stop"),
    ],
)
def test_stop_texts(pieces: list[str], stop: list[str], text: str, reason: str) -> None:
    answer = answer_of(pieces, *stop)
    streamed = list(answer)
    assert "".join(streamed) == answer.text == text
    assert answer.finish_reason == reason
    for count in range(len(streamed)):
        assert text.startswith("".join(streamed[:count]))


def test_stop_text_of_a_real_answer(pocket: Session, photo: np.ndarray) -> None:
    whole = pocket.ask(photo, "Hello", **LONG).text
    cut = whole[5:9]
    answer = pocket.ask(
        photo, "Hello", max_new_tokens=400, sampling=Sampling(stop=(cut,), processors=LONG["sampling"].processors)
    )
    assert answer.text == whole[: whole.find(cut)]
    assert answer.finish_reason == "stop"


def test_deadline_ends_within_one_step(pocket: Session, photo: np.ndarray) -> None:
    start = time.monotonic()
    answer = pocket.ask(photo, "Hello", timeout=0.15, max_new_tokens=100_000, sampling=LONG["sampling"])
    text = answer.text
    assert time.monotonic() - start < 1.0
    assert answer.finish_reason == "deadline"
    assert 0 < len(answer.token_ids) < 4000
    assert len(text) > 0


def test_deadline_before_the_first_token(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo[2:], "Hello", timeout=0.0)
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("", "deadline", [])
    assert answer.pruning.reason == "the request ended before pruning"
    assert pocket.ask(photo, "Hello", max_new_tokens=1).finish_reason != "deadline"
    with pytest.raises(InputError, match="timeout"):
        pocket.ask(photo, "Hello", timeout=-1)


def test_cancel_from_another_thread_keeps_the_text(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo, "Hello", max_new_tokens=100_000, sampling=LONG["sampling"])
    timer = threading.Timer(0.1, answer.cancel)
    timer.start()
    pieces = list(answer)
    assert answer.finish_reason == "cancelled"
    assert "".join(pieces) == answer.text
    assert pieces
    timer.join()
    assert pocket.ask(photo, "Hello", **LONG).text.startswith(answer.text[:20])


def test_cancel_stops_the_engine_in_prefill() -> None:
    """Vision at the largest size takes long enough to be stopped within the run."""
    side = 28 * 24
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    with load(scene_cache_bytes=0) as vlm:
        vlm.ask(image, "Hello", max_new_tokens=1)
        start = time.monotonic()
        whole_s = min(_time(lambda: vlm.ask(image, "Hello", max_new_tokens=1)) for _ in range(2))
        timer = threading.Timer(whole_s / 4, vlm.cancel)
        timer.start()
        start = time.monotonic()
        answer = vlm.ask(image, "Hello", max_new_tokens=1)
        took_s = time.monotonic() - start
        timer.join()
        if answer.finish_reason is None:
            _ = answer.text
        assert answer.finish_reason == "cancelled"
        assert answer.token_ids == []
        assert took_s < whole_s
        vlm.cancel()  # nothing runs: nothing happens
        assert len(vlm.ask(image, "Hello", max_new_tokens=1).text) >= 0


def _time(work: object) -> float:
    start = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - start


def test_an_interrupt_stops_a_run_and_says_why_once() -> None:
    stopped: list[int] = []
    interrupt = Interrupt()

    def run(during: Interrupt, work: Callable[[], None]) -> None:
        with during.during(lambda: stopped.append(1)):
            work()

    def stopped_engine() -> None:
        interrupt.cancel()
        raise RuntimeError("the engine was told to stop")

    def broken_engine() -> None:
        raise RuntimeError("a real failure")

    with pytest.raises(Interrupted):
        run(interrupt, stopped_engine)
    assert stopped == [1]
    with pytest.raises(Interrupted):
        run(interrupt, broken_engine)  # it must not even start
    assert interrupt.reason == "cancelled"
    with pytest.raises(RuntimeError, match="a real failure"):
        run(Interrupt(), broken_engine)


def test_age_of_a_frame(pocket: Session, photo: np.ndarray) -> None:
    stamp = time.monotonic() - 0.5
    answer = pocket.ask(Frame(photo[..., ::-1], "bgr8", stamp), "Is there a star?", pruning=Pruning())
    assert answer.stamp == stamp
    assert answer.text == pocket.ask(photo, "Is there a star?").text
    age = answer.frame_age_ms
    assert age is not None
    assert 500 <= age < 5000
    time.sleep(0.02)
    assert answer.frame_age_ms == age
    assert pocket.ask(photo, "Hello").frame_age_ms is None
