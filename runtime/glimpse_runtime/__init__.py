"""Runs bundles made by glimpse-export: ask questions about images with most visual tokens pruned."""

from glimpse_runtime._version import __version__
from glimpse_runtime.answer import Answer
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
from glimpse_runtime.pruning import PruneReport, Pruning
from glimpse_runtime.session import Session, load
from glimpse_runtime.stats import Stats

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
