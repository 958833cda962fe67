"""From what a caller gives for images to encoded scenes."""

from collections.abc import Sequence

from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Patches
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.request import Images, Request, frames_of, newest_stamp
from glimpse_runtime.session.scene_cache import SceneState
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.pipeline import Pipeline

Pictures = Sequence[Image.Image]


def read(images: Images, encoding: str | None, family: Family) -> tuple[SceneState, list[Image.Image]]:
    """Reads images; returns a scene that knows only their sizes, and their pixels."""
    frames = frames_of(images, encoding)
    pictures = [read_image(frame.image, frame.encoding) for frame in frames]
    grids = tuple(family.grid(picture) for picture in pictures)
    return SceneState(grids, tuple(picture.size for picture in pictures), newest_stamp(frames)), pictures


def patches_of(picture: Image.Image, family: Family, stats: Stats, interrupt: Interrupt) -> Patches:
    """Preprocesses one image within a deadline.

    Raises:
        Interrupted: the request has ended.
    """
    with stats.stage("preprocess"):
        return interrupt.run(lambda: family.patches(picture))


def encode_into(
    scene: SceneState,
    pictures: Pictures,
    pipeline: Pipeline,
    family: Family,
    request: Request,
    cells: Sequence[IntArray | None] | None = None,
) -> None:
    """Encodes the images of a scene, or some cells of them.

    Raises:
        Interrupted: the request has ended.
    """
    stats, interrupt = request.stats, request.interrupt
    # One after the other: patches take more memory than what is made of them.
    scene.visual = [
        pipeline.encode(patches_of(picture, family, stats, interrupt), stats, interrupt, chosen)
        for picture, chosen in zip(pictures, cells or [None] * len(pictures), strict=True)
    ]
