"""Frames of a video file or a camera, read with OpenCV in a thread of their own; the newest one wins."""

import os
import re
import threading
import time
from pathlib import Path
from types import TracebackType

try:
    import cv2
except ImportError as error:
    raise ImportError('reading video needs OpenCV: pip install "glimpse-edge[video]"') from error

from glimpse_runtime.errors import InputError, SessionError
from glimpse_runtime.inputs.frames import LatestFrame

_USUAL_FPS = 30.0
# Addresses, devices, pipelines and series of pictures: not files, and OpenCV's own affair.
_FOR_OPENCV = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://|^/dev/|!|%0?\d*d")


class Video:
    """Puts frames into a ``LatestFrame`` as a camera would; closes it at the end.

    A file is paced at its frame rate, so a slow reader misses frames as it would miss those of a camera.

    Attributes:
        fps: frames per second; 30 where the source does not tell.
        frames_read: frames put so far.
    """

    def __init__(self, source: str | os.PathLike[str] | int, box: LatestFrame) -> None:
        """Opens the source; ``start``, or the context manager, begins to read.

        Args:
            source: a video file, the number of a camera, or what else OpenCV opens: ``rtsp://`` and other addresses,
                ``/dev/video0``, a GStreamer pipeline, a numbered series of pictures such as ``img_%03d.jpg``.
            box: where frames go, as ``bgr8`` with the time they were read as stamp.

        Raises:
            InputError: the source cannot be opened.
        """
        is_file = not isinstance(source, int) and not _FOR_OPENCV.search(os.fspath(source))
        if is_file and not Path(source).is_file():  # type: ignore[arg-type]
            raise InputError(f"there is no video file {source}; check the name, or give the number of a camera")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else os.fspath(source))
        if not self._capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else os.fspath(source)
            raise InputError(
                f"OpenCV cannot open {what}; see that it is there, that nobody else uses it, and that OpenCV was built "
                "for such sources"
            )
        self.fps: float = self._capture.get(cv2.CAP_PROP_FPS) or _USUAL_FPS
        self.frames_read = 0
        self._box = box
        self._period_s = 1.0 / self.fps if is_file else 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="glimpse-video", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def close(self) -> None:
        """Stops reading and frees the source; waits for the frame that is being read."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._capture.release()

    def __enter__(self) -> "Video":
        """Begins to read."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the video."""
        self.close()

    def _read(self) -> None:
        due_s = time.monotonic()
        try:
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                good, frame = self._capture.read()
                if not good:
                    break
                self._box.put(frame, "bgr8")
                self.frames_read += 1
                due_s += self._period_s
        except SessionError:
            pass  # the reader closed the mailbox: nobody wants more frames
        finally:
            self._box.close()
