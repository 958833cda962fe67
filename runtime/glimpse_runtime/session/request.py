"""What one question asks for, checked once: images, options, and the clock that runs from the call on."""

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np

from glimpse_runtime.checked import real, seconds, shown, whole
from glimpse_runtime.errors import ImageError, InputError, PruningError
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.frames import Frame
from glimpse_runtime.inputs.images import ImageSource
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.choices import checked_choices
from glimpse_runtime.session.sampling import Sampling
from glimpse_runtime.stats import Stats

Images = ImageSource | Frame | Sequence[ImageSource | Frame]

DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class BudgetReport:
    """How a request was fitted into its budget.

    Attributes:
        budget_ms: what was asked.
        predicted_ms: from the call to the first token, as predicted before computing, with the margin.
        way: ``full``, ``pruned``, ``two-stage``, ``zoom`` or ``smaller``.
        max_visual_tokens: the limit per image that was chosen; None where images have their own size.
        max_keep_ratio: share of the visual tokens kept at most; None where pruning has no cap.
        pre_keep: share that the first stage keeps; None without one.
        zoom_most: share of the image encoded at full resolution; None without zoom.
    """

    budget_ms: float
    predicted_ms: float
    way: str
    max_visual_tokens: int | None
    max_keep_ratio: float | None
    pre_keep: float | None
    zoom_most: float | None


@dataclass
class Request:
    """The options of one question; made when it is asked, so its deadline counts from there.

    A budget rewrites ``pruning`` and ``max_visual_tokens`` before anything is computed, and says so in ``budget``.
    """

    pruning: Pruning
    sampling: Sampling
    max_new_tokens: int
    interrupt: Interrupt
    eos: Sequence[int] | None = None
    choices: Mapping[str, Any] | None = None
    max_visual_tokens: int | None = None
    budget_ms: float | None = None
    budget: BudgetReport | None = None
    stats: Stats = field(default_factory=Stats)
    start_s: float = field(default_factory=time.perf_counter)

    def seen_by(self, family: Family) -> Family:
        """Returns the family with the request's limit of visual tokens.

        Raises:
            InputError: the model cannot see so few.
        """
        return family if self.max_visual_tokens is None else family.at_most(self.max_visual_tokens)


def make_request(
    pruning: Pruning | None,
    sampling: Sampling | None,
    max_new_tokens: int,
    timeout: float | None,
    eos: Sequence[int] | None = None,
    choices: Any = None,
    of_stream: bool = False,
    max_visual_tokens: int | None = None,
    budget_ms: float | None = None,
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
        max_visual_tokens: of every image; None is no limit.
        budget_ms: milliseconds from now to the first token; None is no limit.

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
    if max_visual_tokens is not None:
        max_visual_tokens = whole("max_visual_tokens", max_visual_tokens, 1)
    if budget_ms is not None:
        budget_ms = real("budget_ms", budget_ms, 0, above=True)
    return Request(
        pruning or Pruning(),
        sampling or Sampling(),
        most,
        Interrupt(seconds("timeout", timeout)),
        _ids(eos),
        checked_choices(choices),
        max_visual_tokens,
        budget_ms,
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
