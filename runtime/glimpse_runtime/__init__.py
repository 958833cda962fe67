"""Runs bundles made by glimpse-export: ask questions about images with most visual tokens pruned."""

from typing import TYPE_CHECKING

from glimpse_runtime._version import __version__
from glimpse_runtime.errors import (
    BackendError,
    BundleDamagedError,
    BundleError,
    BundleFormatError,
    BundleNotFoundError,
    GlimpseError,
    ImageError,
    InputError,
    PromptError,
    PruningError,
    SessionError,
)
from glimpse_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from glimpse_runtime.inputs.frames import Frame, LatestFrame
    from glimpse_runtime.pruning.options import Pruning
    from glimpse_runtime.pruning.report import PruneReport
    from glimpse_runtime.session.answer import Answer
    from glimpse_runtime.session.loading import load
    from glimpse_runtime.session.sampling import Sampling
    from glimpse_runtime.session.scene import Chat, Scene
    from glimpse_runtime.session.session import Session
    from glimpse_runtime.session.stream import Stream
    from glimpse_runtime.stats import Stats

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "glimpse_runtime.session.answer",
        "Chat": "glimpse_runtime.session.scene",
        "Frame": "glimpse_runtime.inputs.frames",
        "LatestFrame": "glimpse_runtime.inputs.frames",
        "PruneReport": "glimpse_runtime.pruning.report",
        "Pruning": "glimpse_runtime.pruning.options",
        "Sampling": "glimpse_runtime.session.sampling",
        "Scene": "glimpse_runtime.session.scene",
        "Session": "glimpse_runtime.session.session",
        "Stats": "glimpse_runtime.stats",
        "Stream": "glimpse_runtime.session.stream",
        "load": "glimpse_runtime.session.loading",
    },
)

__all__ = [
    "Answer",
    "BackendError",
    "BundleDamagedError",
    "BundleError",
    "BundleFormatError",
    "BundleNotFoundError",
    "Chat",
    "Frame",
    "GlimpseError",
    "ImageError",
    "InputError",
    "LatestFrame",
    "PromptError",
    "PruneReport",
    "Pruning",
    "PruningError",
    "Sampling",
    "Scene",
    "Session",
    "SessionError",
    "Stats",
    "Stream",
    "__version__",
    "load",
]
