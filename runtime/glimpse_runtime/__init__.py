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
    from glimpse_runtime.answer import Answer
    from glimpse_runtime.frames import Frame, LatestFrame
    from glimpse_runtime.prune_report import PruneReport
    from glimpse_runtime.pruning import Pruning
    from glimpse_runtime.sampling import Sampling
    from glimpse_runtime.scene import Chat, Scene
    from glimpse_runtime.session import Session, load
    from glimpse_runtime.stats import Stats

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "glimpse_runtime.answer",
        "Chat": "glimpse_runtime.scene",
        "Frame": "glimpse_runtime.frames",
        "LatestFrame": "glimpse_runtime.frames",
        "PruneReport": "glimpse_runtime.prune_report",
        "Pruning": "glimpse_runtime.pruning",
        "Sampling": "glimpse_runtime.sampling",
        "Scene": "glimpse_runtime.scene",
        "Session": "glimpse_runtime.session",
        "Stats": "glimpse_runtime.stats",
        "load": "glimpse_runtime.session",
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
    "__version__",
    "load",
]
