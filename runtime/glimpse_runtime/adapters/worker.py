"""A thread that answers questions one after the other, each about the newest frame, so that callbacks never wait."""

import contextlib
import queue
import threading
from collections.abc import Callable

from glimpse_runtime.errors import GlimpseError
from glimpse_runtime.inputs.frames import Frame, LatestFrame

_MOST_WAITING = 8


class QuestionWorker:
    """Takes frames and questions from callbacks; a question before the first frame waits for it.

    Attributes:
        frames: where to put frames.
    """

    def __init__(
        self,
        answer: Callable[[Frame, str], None],
        refuse: Callable[[str], None],
        crash: Callable[[], None],
    ) -> None:
        """Starts the thread.

        Args:
            answer: called in the thread with the newest frame and a question.
            refuse: called, in any thread, with the reason when a question is not answered.
            crash: called in the thread when ``answer`` raised something that is not a ``GlimpseError``; the
                thread ends then.
        """
        self.frames = LatestFrame()
        self._answer, self._refuse, self._crash = answer, refuse, crash
        self._questions: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="glimpse-questions", daemon=True)
        self._thread.start()

    def ask(self, question: str) -> None:
        """Queues a question, or refuses it when too many wait; never blocks."""
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            self._refuse(f"{_MOST_WAITING} questions wait already; not answered: {question}")

    def close(self) -> None:
        """Forgets the questions that wait, and returns when the one being answered is; nobody may ask any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._questions.get_nowait()
        self._questions.put(None)
        self.frames.close()
        self._thread.join()

    def _work(self) -> None:
        frame: Frame | None = None
        try:
            while (question := self._questions.get()) is not None:
                frame = self.frames.get(0.0 if frame else None) or frame
                if frame is None:  # closed before the first frame
                    return
                try:
                    self._answer(frame, question)
                except GlimpseError as error:
                    self._refuse(str(error))
        except Exception:
            self._crash()
            raise
