"""What one question asks for, checked once: images, options, and the clock that runs from the call on."""

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np

from glimpse_runtime.checked import seconds, shown, whole
from glimpse_runtime.errors import ImageError, InputError, PruningError
from glimpse_runtime.inputs.images import ImageSource
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.choices import checked_choices
from glimpse_runtime.session.frames import Frame
from glimpse_runtime.session.sampling import Sampling
from glimpse_runtime.stats import Stats

Images = ImageSource | Frame | Sequence[ImageSource | Frame]

DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Request:
    """The options of one question; made when it is asked, so its deadline counts from there."""

    pruning: Pruning
    sampling: Sampling
    max_new_tokens: int
    interrupt: Interrupt
    eos: Sequence[int] | None = None
    choices: Mapping[str, Any] | None = None
    stats: Stats = field(default_factory=Stats)
    start_s: float = field(default_factory=time.perf_counter)


def make_request(
    pruning: Pruning | None,
    sampling: Sampling | None,
    max_new_tokens: int,
    timeout: float | None,
    eos: Sequence[int] | None = None,
    choices: Any = None,
    of_stream: bool = False,
) -> Request:
    """Fills what was left open and checks the rest.

    Args:
        pruning: pruning options.
        sampling: how tokens are chosen.
        max_new_tokens: longest answer.
        timeout: seconds from now.
        eos: ids that end the answer.
        choices: what the answer is one of; see ``checked_choices``.
        of_stream: whether it is about a stream's frame, the only one that can be followed.

    Raises:
        InputError: a value is out of its range.
    """
    for name, value, kind in (("pruning", pruning, Pruning), ("sampling", sampling, Sampling)):
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} must be a {kind.__name__}, found {shown(value)}")
    if pruning is not None and pruning.follow is not None and not of_stream:
        raise PruningError(
            "follow needs the frames of a stream; open one with session.stream() and ask the scenes of its update(), "
            "or leave out follow"
        )
    most = whole("max_new_tokens", max_new_tokens, 1)
    if choices is not None and sampling is not None:
        raise InputError("choices are weighed, not drawn, so sampling has no meaning beside them; leave one away")
    return Request(
        pruning or Pruning(),
        sampling or Sampling(),
        most,
        Interrupt(seconds("timeout", timeout)),
        _ids(eos),
        checked_choices(choices),
    )


def frames_of(images: Images, encoding: str | None) -> list[Frame]:
    """Returns every image as a frame.

    Raises:
        InputError: an encoding contradicts a frame's own.
    """
    frames = []
    for image in images if isinstance(images, (list, tuple)) else [images]:
        if image is None:
            raise ImageError(
                "an image is None; has a camera read failed (cv2.imread and VideoCapture.read give None)? To ask "
                "without an image, give an empty list"
            )
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


def _ids(eos: object) -> tuple[int, ...] | None:
    """Returns ids that end an answer; one alone counts as a list of one."""
    if eos is None:
        return None
    given = [eos] if isinstance(eos, Integral) else eos
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, Set)):
        raise InputError(f"eos must be token ids, found {shown(eos)}")
    return tuple(whole("an id of eos", token, 0) for token in given)
