"""What is kept of a scene's images: the vision encoder's output, and the prompt's start in the lower layers."""

from collections.abc import Callable, Sequence

from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Patches
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.request import Request
from glimpse_runtime.session.scene_cache import SceneState
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.prefix import Prefix

Pictures = Sequence[Image.Image]
Plan = Callable[[SceneState], Callable[[Pictures], None]]
"""Checks what is asked of a scene's images, before anything is computed; what it returns encodes them into it."""


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
    """Runs the vision encoder on a scene's images.

    Args:
        scene: gets what is encoded.
        pictures: its images.
        pipeline: the loaded graphs.
        family: the model's, with the limits of the session.
        request: whose clock and stage times these are.
        cells: (n,) ascending places to encode per image, None in it is all; None is all of every image.

    Raises:
        Interrupted: the request has ended.
    """
    stats, interrupt = request.stats, request.interrupt
    # One after the other: patches take more memory than what is made of them.
    scene.visual = [
        pipeline.encode(patches_of(picture, family, stats, interrupt), stats, interrupt, chosen)
        for picture, chosen in zip(pictures, cells or [None] * len(pictures), strict=True)
    ]


def keep_prefix(
    scene: SceneState, entry: Entry, pipeline: Pipeline, request: Request, limit_bytes: int | None = None
) -> Prefix | None:
    """Returns what is known of an entry's start; a start that other questions share is run and kept in the scene.

    Args:
        scene: the encoded images.
        entry: the prompt as it enters layer 0.
        pipeline: the loaded graphs.
        request: the options.
        limit_bytes: the most that a scene may hold to be kept; None is no limit.
    """
    if scene.prefix is not None and scene.prefix.starts(entry):
        return scene.prefix
    if not entry.has_start or request.pruning.enters_by_question:
        return None
    needed_bytes = pipeline.prefix_bytes(len(entry.ids)) + sum(image.nbytes for image in scene.visual)
    if limit_bytes is not None and needed_bytes > limit_bytes:
        return None
    scene.prefix = pipeline.prefix(entry, scene.visual, request.stats, request.interrupt)
    return scene.prefix
