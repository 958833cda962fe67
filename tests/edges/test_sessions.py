"""Sessions under threads, signals and interrupts."""

import copy
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from glimpse_runtime import Sampling, SessionError, load
from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.reading import Reading
from glimpse_runtime.session.session import Session
from glimpse_runtime.session.turns import CLOSED, Turns

QUESTION = "Is there a star?"
FRAME = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)


@pytest.fixture
def vlm() -> Iterator[Session]:
    with load(warmup="off") as session:
        yield session


def test_cancel_ends_what_is_computed_though_another_request_began_meanwhile(
    vlm: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer's last decode step is under way when the second request is prepared."""
    first = vlm.ask(FRAME, QUESTION, max_new_tokens=2)
    pipeline = vlm._open_pipeline()
    original, in_step, go_on = pipeline.decode, threading.Event(), threading.Event()

    def slow(*arguments: object) -> object:
        in_step.set()
        assert go_on.wait(10)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "decode", slow)
    reader = threading.Thread(target=lambda: first.text)
    reader.start()
    assert in_step.wait(10)
    monkeypatch.setattr(pipeline, "decode", original)
    read = vlm._reading.scene

    def read_then_wait(*arguments: object) -> object:
        found = read(*arguments)  # type: ignore[arg-type]
        go_on.set()
        reader.join(10)
        return found

    monkeypatch.setattr(Reading, "scene", lambda _, *arguments: read_then_wait(*arguments))
    encode = pipeline.encode

    def encode_and_cancel(*arguments: object) -> object:
        vlm.cancel()
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "encode", encode_and_cancel)
    answer = vlm.ask(255 - FRAME, QUESTION)  # another image: one that is not known yet
    assert (answer.text, answer.finish_reason) == ("", "cancelled")


def test_an_interrupted_answer_is_no_whole_one(vlm: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = vlm.ask(FRAME, "What letters are written?", max_new_tokens=5)
    pipeline = vlm._open_pipeline()

    def interrupted(*arguments: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = answer.text
    assert answer.text is not None
    assert answer.finish_reason == "cancelled"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_the_exception_of_a_signals_handler_is_its_own(vlm: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class WatchdogError(Exception):
        """Of a robot's own timer."""

    def handler(*_: object) -> None:
        raise WatchdogError("too late")

    engine = vlm._open_pipeline()._engines["vision"]
    run = engine._session.run_with_iobinding  # type: ignore[attr-defined]

    def slow(*arguments: object) -> None:
        run(*arguments)
        time.sleep(1)

    monkeypatch.setattr(engine._session, "run_with_iobinding", slow)  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(WatchdogError):
            vlm.ask(FRAME, QUESTION)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    monkeypatch.undo()
    assert vlm.ask(FRAME, QUESTION).text


def test_a_session_is_closed_from_within_its_own_request(vlm: Session) -> None:
    """By a signal's handler or a logits processor: nobody waits for a lock that this very thread holds."""

    def close(tokens: Sequence[int], logits: FloatArray) -> FloatArray:
        vlm.close()
        return logits

    answer = vlm.ask(FRAME, QUESTION, sampling=Sampling(processors=(close,)))
    assert vlm._pipeline is None
    with pytest.raises(SessionError, match="this session is closed"):
        _ = answer.text


def test_no_request_begins_while_a_close_waits_for_another() -> None:
    """A thread that asks again and again would otherwise keep the one that closes waiting."""
    freed: list[bool] = []

    class Owner:
        def free(self) -> None:
            freed.append(True)

    owner = Owner()
    turns = Turns(owner.free)
    running, entered = Interrupt(), threading.Event()
    begun: list[str] = []

    def work() -> None:
        with turns.take(running):
            entered.set()
            while not running.expired():
                time.sleep(0.001)
        try:
            with turns.take(Interrupt()):
                begun.append("another")
        except SessionError as error:
            begun.append(str(error))

    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(10)
    lock, told = turns._lock, threading.Event()

    class Late:
        """The lock, which the one that closes comes to after the other request has tried to begin."""

        def __enter__(self) -> None:
            worker.join(10)
            told.set()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

        def acquire(self, blocking: bool) -> bool:
            return lock.acquire(blocking)

        def release(self) -> None:
            lock.release()

    turns._lock = Late()  # type: ignore[assignment]
    turns.close()
    assert told.is_set()
    assert begun == [CLOSED]
    assert freed


def test_a_close_while_a_request_begins_waits_for_its_end() -> None:
    """A signal's handler runs in the thread that holds the lock, between any two lines."""
    freed: list[str] = []

    class Owner:
        def free(self) -> None:
            freed.append("freed")

    class Handled(Turns):
        """Its closing is looked at once, and a signal comes right behind the look."""

        armed = False

        @property
        def _closing(self) -> bool:
            found = self._closed
            if self.armed:
                self.armed = False
                self.close()
            return found

        @_closing.setter
        def _closing(self, closing: bool) -> None:
            self._closed = closing

    owner = Owner()
    turns, interrupt = Handled(owner.free), Interrupt()
    turns.armed = True
    with turns.take(interrupt):
        assert interrupt.reason == "cancelled"
        assert not freed
    assert freed


def ask_for_ever(vlm: Session) -> None:
    while True:
        vlm.ask(FRAME, QUESTION, max_new_tokens=1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_a_handler_closes_the_session_that_it_interrupts(vlm: Session) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: vlm.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(SessionError, match="this session is closed"):
            ask_for_ever(vlm)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_holds_an_engine_is_not_copied(vlm: Session) -> None:
    with vlm.encode(FRAME) as scene:
        for held in (vlm, scene, vlm.ask(FRAME, QUESTION)):
            for act in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(SessionError, match="can be neither copied nor sent to another process"):
                    act(held)
    assert vlm.ask(FRAME, QUESTION).text
