"""What every call must do whatever it is given: answer, or say in printable words why not, and soon."""

import os
import resource
import signal
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from glimpse_runtime import Answer, GlimpseError

LONG = os.environ.get("GLIMPSE_FUZZ_EXAMPLES")
"""Examples of every property of a long run, which draws new ones each time."""

MOST_SECONDS, MOST_GROWTH_BYTES = 20, 2 << 30
REASONS = {"stop", "length", "deadline", "cancelled"}

T = TypeVar("T")


def fuzzed(examples: int) -> settings:
    """The settings of a property: the same examples each time, or many new ones in a long run."""
    return settings(
        max_examples=int(LONG) if LONG else examples,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def outcome(call: Callable[[], T]) -> T | GlimpseError:
    """Returns what a call gives or the error it raises on purpose; anything else fails the test."""
    before = _peak_bytes()
    start_s = time.monotonic()
    result: T | GlimpseError
    with _limited():
        try:
            result = call()
        except GlimpseError as error:
            result = error
    assert time.monotonic() - start_s < MOST_SECONDS
    assert _peak_bytes() - before < MOST_GROWTH_BYTES, "it took too much memory"
    if isinstance(result, GlimpseError):
        require_printable(str(result))
    return result


def require_printable(message: str) -> None:
    """An error's words do nothing to a terminal, and are not nothing."""
    assert message.strip()
    odd = {c for c in message if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert not odd, f"{odd} in {message!r}"


def read(answer: Answer) -> str:
    """Reads an answer to its end and checks that it is one."""
    text = answer.text
    text.encode()
    assert answer.finish_reason in REASONS
    assert answer.pruning.total >= answer.pruning.kept >= 0
    return text


@contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise pytest.fail.Exception(f"no answer within {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
