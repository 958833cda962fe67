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
    from glimpse_runtime.pruning import PruneReport, Pruning
    from glimpse_runtime.session import Session, load
    from glimpse_runtime.stats import Stats

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "glimpse_runtime.answer",
        "PruneReport": "glimpse_runtime.pruning",
        "Pruning": "glimpse_runtime.pruning",
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
    "GlimpseError",
    "ImageError",
    "InputError",
    "PromptError",
    "PruneReport",
    "Pruning",
    "PruningError",
    "Session",
    "SessionError",
    "Stats",
    "__version__",
    "load",
]
