"""A fixed camera: scenes of its frames, of which only what changed is encoded again."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.closing import Closing
from glimpse_runtime.errors import InputError, SessionError
from glimpse_runtime.fork import OfOneProcess
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.frames import Frame
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.images import ImageSource
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import StreamReport
from glimpse_runtime.pruning.zoom import dilated
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.session.encoding import Pictures, Plan, patches_of
from glimpse_runtime.session.request import Images, Request, make_request
from glimpse_runtime.session.scene import Ask, Scene
from glimpse_runtime.session.scene_cache import SceneState
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.update import Seen

DEFAULT_REFRESH = 30
MOST_QUESTIONS = 64
"""Questions whose kept visual tokens a stream remembers."""

See = Callable[[Images, str | None, Request, Plan], SceneState]
"""How a session makes the state of a scene."""


class Followed:
    """What the last answer to each of the last questions kept, and what changed since."""

    def __init__(self) -> None:
        """Starts empty."""
        self._kept: OrderedDict[str, tuple[BoolArray, BoolArray]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return sum(kept.nbytes + changed.nbytes for kept, changed in self._kept.values())

    def see(self, now: Seen) -> None:
        """Takes a frame: after a full pass everything has changed."""
        if now.age == 0:
            self.clear()
        for question, (kept, changed) in self._kept.items():
            self._kept[question] = kept, changed | now.changed

    def keep(self, question: str, kept: BoolArray) -> None:
        """Takes the (visual tokens,) mask that the newest frame's answer kept."""
        self._kept[question] = kept.copy(), np.zeros_like(kept)
        self._kept.move_to_end(question)
        if len(self._kept) > MOST_QUESTIONS:
            self._kept.popitem(last=False)

    def entering(self, question: str, grid: Grid, margin: int) -> BoolArray | None:
        """Returns the (rows, columns) mask of what enters layer 0; None where all does."""
        if question not in self._kept:
            return None
        kept, changed = self._kept[question]
        entered: BoolArray = dilated(kept.reshape(grid.merged), margin) | changed.reshape(grid.merged)
        return entered if entered.any() and not entered.all() else None

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()


class Stream(Closing, OfOneProcess):
    """Frames of one camera that stands still. Made by ``Session.stream``; a session may have several.

    Every frame is compared with the pixels that each place *was last computed from*, so slow change adds up until it
    counts, and noise does not. Windows with a change are encoded again; the others keep their visual tokens, which is
    not exact where the encoder attends to the whole image. So all is encoded again every ``refresh`` frames, when the
    frames' size changes, when more than 60 % changed, and after an update that did not finish. From the first stream
    on, the session's vision encoder is the one that updates.
    """

    def __init__(
        self, see: See, ask: Ask, pipeline: Pipeline, family: Family, refresh: int, pruning: Pruning | None
    ) -> None:
        """Starts without a frame; use ``Session.stream``."""
        self._see, self._ask = see, ask
        self._pipeline = pipeline
        self._family = family
        self._refresh = refresh
        self._pruning = pruning
        self._given = Pruning(enabled=False) if pruning is None else pruning
        self._seen: Seen | None = None
        self._followed = Followed()
        self._last: weakref.ref[SceneState] | None = None
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Bytes the stream holds beside its scenes: they follow from the frames' size, not from their number."""
        return (self._seen.nbytes if self._seen else 0) + self._followed.nbytes

    def update(self, frame: ImageSource | Frame, *, encoding: str | None = None, timeout: float | None = None) -> Scene:
        """Encodes what changed and returns the frame's scene; scenes of earlier frames stay as they are.

        Args:
            frame: one image; see ``Session.ask``.
            encoding: channel order of an image array.
            timeout: seconds it may take.

        Raises:
            InputError: the frame cannot be used.
            SessionError: the stream or the session is closed, or it is busy, or the update was ended by its deadline or
                ``Session.cancel``; the next one then encodes everything.
        """
        if self._closed:
            raise SessionError("this stream is closed; open another with session.stream()")
        if isinstance(frame, (list, tuple)):
            raise InputError(f"a stream takes one frame at a time, found a {type(frame).__name__} of {len(frame)}")
        request = make_request(self._given, None, 1, timeout, of_stream=True)
        state = self._see(
            frame, encoding, request, lambda scene: lambda pictures: self._encode(scene, pictures, request)
        )
        self._last = weakref.ref(state)
        return Scene(self._ask_frame, state, self._pruning)

    def close(self) -> None:
        """Frees the memory; its scenes stay as they are."""
        self._closed, self._seen = True, None
        self._followed.clear()

    def _encode(self, scene: SceneState, pictures: Pictures, request: Request) -> None:
        (picture,), stats, interrupt = pictures, request.stats, request.interrupt
        frame = patches_of(picture, self._family, stats, interrupt)
        seen, self._seen = self._seen, None  # an update that ends early leaves a cache that makes no sense
        now = self._pipeline.update(frame, seen, self._refresh, stats, interrupt)
        self._seen = now
        self._followed.see(now)
        scene.visual = [now.tokens]
        share = float(now.changed.mean())
        scene.stream = StreamReport(share, int((~now.changed).sum()), now.age)
        last = self._last() if self._last else None
        if last is not None and not now.changed.any():
            scene.prefix = last.prefix

    def _ask_frame(
        self, scene: SceneState, question: str, request: Request, system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Answer:
        newest, margin = self._last is not None and self._last() is scene, request.pruning.follow
        asked, entered = scene, None
        if margin is not None:
            request = replace(request, pruning=replace(request.pruning, follow=None))
            entered = self._followed.entering(question, scene.grids[0], margin) if newest else None
        if entered is not None:  # what does not enter is as if it had not been encoded
            (tokens,) = scene.visual
            asked = replace(scene, visual=[replace(tokens, encoded=entered.reshape(-1))], prefix=None)
        answer = self._ask(asked, question, request, system, turns)
        report, made = answer.pruning, scene.stream
        if margin is not None and newest and report.method != "none":
            self._followed.keep(question, report.keep_masks[0].reshape(-1))
        if made is not None:
            masks = () if entered is not None else report.encoded_masks
            answer.pruning = replace(report, encoded_masks=masks, stream=replace(made, entered=entered))
        return answer
