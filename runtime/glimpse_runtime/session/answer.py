"""An answer: a stream of text pieces, and the facts about how it came to be."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from glimpse_runtime.errors import SessionError
from glimpse_runtime.fork import OfOneProcess
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.report import PruneReport
from glimpse_runtime.session.choices import Choice
from glimpse_runtime.session.request import BudgetReport
from glimpse_runtime.stats import Stats

log = logging.getLogger("glimpse")


class Answer(OfOneProcess):
    """The answer to one question. Iterate for pieces of valid text as they are decoded, or read ``text``.

    Attributes:
        pruning: which visual tokens were kept, and why.
        stats: stage times; complete when the answer is.
        budget: how the question was fitted into ``budget_ms``; None without one.
        stamp: acquisition time of the newest frame, in seconds of ``time.monotonic()``; None if it had none.
        token_ids: the tokens so far, the one that ended the answer included.
        value: the chosen one of ``choices``: a text as it was given, or a bool; None without them, or when the request
            ended before they were weighed.
        probabilities: of every value that could be chosen, adding up to one; None where ``value`` is.
        finish_reason: None while the answer goes on, then ``stop`` (the model or a stop text ended it),
            ``length``, ``deadline`` or ``cancelled``.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        stop: Set[int],
        tokenizer: Tokenizer | None,
        pruning: PruneReport,
        stats: Stats,
        interrupt: Interrupt,
        stop_texts: Sequence[str],
        stamp: float | None,
        choice: Choice | None = None,
    ) -> None:
        """Wraps a token stream; made by ``Session.ask``."""
        self.value: Any = choice.value if choice else None
        self.probabilities: Mapping[Any, float] | None = choice.probabilities if choice else None
        self.pruning = pruning
        self.stats = stats
        self.stamp = stamp
        self.budget: BudgetReport | None = None
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._tokens = tokens
        self._stop = stop
        self._stop_texts = stop_texts
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream() if tokenizer else None
        self._interrupt = interrupt
        self._pieces: list[str] = []
        self._given = 0
        self._held = ""
        self._error: Exception | None = None
        self._busy = threading.Lock()
        self._ended_s: float | None = None

    def __iter__(self) -> Iterator[str]:
        """Yields the pieces that were not yielded yet, decoding as it goes."""
        while self._given < len(self._pieces) or self._advance():
            self._given += 1
            yield self._pieces[self._given - 1]

    @property
    def text(self) -> str:
        """The whole answer; decodes what is still missing."""
        while self._advance():
            pass
        return "".join(self._pieces)

    @property
    def frame_age_ms(self) -> float | None:
        """Milliseconds from the frame's stamp to the end of the answer, or to now while it goes on."""
        if self.stamp is None:
            return None
        return ((self._ended_s or time.monotonic()) - self.stamp) * 1e3

    def cancel(self) -> None:
        """Ends the answer with the text it has; may be called from any thread."""
        self._interrupt.cancel()

    def _finish_for(self, interrupt: Interrupt) -> None:
        """Ends this answer because another request needs the session.

        What nobody has begun to read is completed, unless the other request ends first; what was begun and left is
        cancelled. A failure is kept for whoever reads this answer.
        """
        if self._given:
            self.cancel()
        try:
            while self._advance():
                if interrupt.expired():
                    self.cancel()
        except SessionError:
            raise
        except Exception:
            log.debug("an earlier answer failed while it was completed", exc_info=True)

    def _advance(self) -> bool:
        """Decodes until there is one more piece; False when the answer is complete.

        A failure is raised again for every later reader: it never becomes a shorter answer.
        """
        if not self._busy.acquire(blocking=False):
            raise SessionError("this answer is being read by another thread")
        try:
            while self.finish_reason is None:
                if self._error is not None:
                    raise self._error
                token = next(self._tokens, None)
                piece = self._end() if token is None else self._take(token)
                if piece:
                    self._pieces.append(piece)
                    return True
            return False
        except Exception as error:
            self._error = error
            raise
        except BaseException:  # the program is interrupted: what there is of the answer is no whole one
            self._interrupt.cancel()
            raise
        finally:
            self._busy.release()

    def _take(self, token: int) -> str:
        """Takes one token; returns the text that is certain now, holding back what a stop text may continue."""
        self.token_ids.append(token)
        if token in self._stop:
            return self._end("stop")
        if self._stream is None:
            return ""
        self._held, found = self._cut(self._held + self._stream.push(token))
        if found:
            return self._end("stop")
        ready = len(self._held) - self._possible_start(self._held)
        piece, self._held = self._held[:ready], self._held[ready:]
        return piece

    def _end(self, reason: str | None = None) -> str:
        """Ends the answer; returns the text that was held back."""
        if reason is None:
            self._held += self._undecoded(self._held)
        self.finish_reason = reason or self._interrupt.reason or "length"
        self._ended_s = time.monotonic()
        piece, self._held = self._held, ""
        return piece

    def _undecoded(self, held: str) -> str:
        """What the stream holds back at the end: bytes that never became a whole character."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(self.token_ids)[len("".join(self._pieces)) + len(held) :]

    def _cut(self, text: str) -> tuple[str, bool]:
        """Cuts text at the first stop text in it."""
        places = [place for stop in self._stop_texts if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop text may continue."""
        longest = max((len(stop) for stop in self._stop_texts), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop_texts):
                return length
        return 0
