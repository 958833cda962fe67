"""How far a long measurement is, on standard error."""

import sys
import time

_EVERY_S = 30.0
"""How often a log gets a line; a terminal sees every step."""


class Progress:
    """Prints a count and the time left."""

    def __init__(self, what: str, total: int) -> None:
        """Starts the clock."""
        self._what = what
        self._total = total
        self._live = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def show(self, done: int) -> None:
        """Says that so many are done."""
        now, last = time.monotonic(), done >= self._total
        if not (self._live or last or now - self._shown > _EVERY_S):
            return
        self._shown = now
        left = time_left((now - self._start) / max(1, done) * (self._total - done))
        line = f"{self._what}: {done}/{self._total}, {left} left"
        if self._live:
            print(f"\r{line:<70}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def time_left(seconds: float) -> str:
    """Returns a time as text, in minutes from two minutes on."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
