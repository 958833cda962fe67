"""What one question asks for, checked once: images, options, and the clock that runs from the call on."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from glimpse_runtime.errors import InputError
from glimpse_runtime.inputs.images import ImageSource
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.frames import Frame
from glimpse_runtime.session.sampling import Sampling
from glimpse_runtime.stats import Stats

Images = ImageSource | Frame | Sequence[ImageSource | Frame] | None

DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Request:
    """The options of one question; made when it is asked, so its deadline counts from there."""

    pruning: Pruning
    sampling: Sampling
    max_new_tokens: int
    interrupt: Interrupt
    eos: Sequence[int] | None = None
    stats: Stats = field(default_factory=Stats)
    start_s: float = field(default_factory=time.perf_counter)


def make_request(
    pruning: Pruning | None,
    sampling: Sampling | None,
    max_new_tokens: int,
    timeout: float | None,
    eos: Sequence[int] | None = None,
) -> Request:
    """Fills what was left open and checks the rest.

    Raises:
        InputError: a value is out of its range.
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be a whole number of at least 1, found {max_new_tokens!r}")
    return Request(pruning or Pruning(), sampling or Sampling(), max_new_tokens, Interrupt(seconds(timeout)), eos)


def seconds(timeout: float | None) -> float | None:
    """Checks a timeout; infinite means none.

    Raises:
        InputError: it is no number, or negative.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)) or math.isnan(timeout) or timeout < 0:
        raise InputError(f"timeout must be a number of seconds, not negative, found {timeout!r}")
    return None if math.isinf(timeout) else float(timeout)


def frames_of(images: Images, encoding: str | None) -> list[Frame]:
    """Returns every image as a frame.

    Raises:
        InputError: an encoding contradicts a frame's own.
    """
    if images is None:
        return []
    frames = []
    for image in images if isinstance(images, (list, tuple)) else [images]:
        frame = image if isinstance(image, Frame) else Frame(image, encoding)  # type: ignore[arg-type]
        if encoding is not None and frame.encoding != encoding:
            if frame.encoding is not None:
                raise InputError(f"encoding={encoding!r} contradicts the frame's own {frame.encoding!r}")
            frame = Frame(frame.image, encoding, frame.stamp)
        frames.append(frame)
    return frames


def newest_stamp(frames: Sequence[Frame]) -> float | None:
    """Returns the latest acquisition time of some frames, None where none has one."""
    return max((frame.stamp for frame in frames if frame.stamp is not None), default=None)
