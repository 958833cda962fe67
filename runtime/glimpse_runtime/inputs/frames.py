"""Frames from a camera: an image with its encoding and time, and a mailbox that keeps the newest."""

import math
import threading
import time
from dataclasses import dataclass

from glimpse_runtime.checked import real, seconds, shown
from glimpse_runtime.errors import ImageError, SessionError
from glimpse_runtime.inputs.images import ENCODINGS, ImageSource


@dataclass(frozen=True)
class Frame:
    """An image as a camera gave it; accepted wherever an image is.

    Attributes:
        image: see ``read_image``.
        encoding: channel order of an array; None is the default of its channels.
        stamp: when it was taken, in seconds of ``time.monotonic()``; carried to the answer.
    """

    image: ImageSource
    encoding: str | None = None
    stamp: float | None = None

    def __post_init__(self) -> None:
        """Refuses what is no frame.

        Raises:
            ImageError: there is no image, or the encoding is not known.
            InputError: the stamp is no time.
        """
        if self.image is None:
            raise ImageError("a frame has no image (None); has a camera read failed?")
        known = isinstance(self.encoding, str) and self.encoding in ENCODINGS
        if self.encoding is not None and not known:
            raise ImageError(f"cannot use encoding {shown(self.encoding)}; accepted are {', '.join(ENCODINGS)}")
        if self.stamp is not None:
            object.__setattr__(self, "stamp", real("stamp", self.stamp, -math.inf))


class LatestFrame:
    """A mailbox with one slot between a camera thread and an asking thread: the newest frame wins.

    Attributes:
        dropped: frames that were replaced before anybody took them.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.dropped = 0
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False

    def put(self, image: ImageSource, encoding: str | None = None, stamp: float | None = None) -> None:
        """Replaces the frame; never blocks. ``stamp`` is now unless it is given.

        Raises:
            SessionError: the mailbox is closed.
        """
        frame = Frame(image, encoding, time.monotonic() if stamp is None else stamp)
        with self._changed:
            if self._closed:
                raise SessionError("this mailbox is closed")
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def get(self, timeout: float | None = None) -> Frame | None:
        """Takes the newest frame; waits up to ``timeout`` seconds for one.

        Returns:
            The frame, or None when none came in time or the mailbox was closed.

        Raises:
            InputError: the timeout is no number of seconds.
        """
        most_s = seconds("timeout", timeout)
        with self._changed:
            self._changed.wait_for(
                lambda: self._frame is not None or self._closed,
                None if most_s is None else min(most_s, threading.TIMEOUT_MAX),
            )
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        """Wakes everybody who waits; nothing can be put any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
