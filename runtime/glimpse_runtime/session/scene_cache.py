"""What has been computed of some images, and the memory of the last ones asked about."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning.report import StreamReport
from glimpse_runtime.steps.prefix import Prefix
from glimpse_runtime.steps.vision import VisualTokens


@dataclass
class SceneState:
    """Some images, and as much as has been computed of them.

    Attributes:
        grids: their patch grids.
        sizes: (width, height) of each as given, in pixels.
        stamp: acquisition time of the newest, None where none had one.
        visual: the encoded images; empty until they are.
        prefix: the prompt's start after the lower layers; None until it is run.
        stream: how it was made of a stream's frame; None for other images.
    """

    grids: tuple[Grid, ...]
    sizes: tuple[tuple[int, int], ...]
    stamp: float | None = None
    visual: Sequence[VisualTokens] = ()
    prefix: Prefix | None = None
    stream: StreamReport | None = None

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return sum(image.nbytes for image in self.visual) + (self.prefix.nbytes if self.prefix else 0)


class SceneCache:
    """The scenes of the last images asked about, newest last, within a limit of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        """Starts empty; a limit of 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self._states: OrderedDict[bytes, SceneState] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes all scenes hold."""
        return sum(state.nbytes for state in self._states.values())

    def get(self, key: bytes) -> SceneState | None:
        """Returns the state of some images and makes it the newest."""
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: bytes, state: SceneState) -> None:
        """Keeps a state if it can ever fit; the oldest ones go until all do."""
        if state.nbytes > self.limit_bytes:
            return
        self._states[key] = state
        self._states.move_to_end(key)
        while self.nbytes > self.limit_bytes:
            self._states.popitem(last=False)

    def clear(self) -> None:
        """Frees everything."""
        self._states.clear()


def content_key(images: Sequence[Image.Image], grids: Sequence[Grid]) -> bytes:
    """Returns a hash of the pixels of RGB images and of the grids at which they are seen."""
    digest = hashlib.blake2b(digest_size=16)
    for image, grid in zip(images, grids, strict=True):
        digest.update(f"{image.width}x{image.height} at {grid};".encode())
        digest.update(image.tobytes())
    return digest.digest()
