"""Exports a checkpoint with a GlimpsePrune adapter to a bundle of split ONNX graphs."""

from typing import TYPE_CHECKING

from glimpse_export.errors import (
    BudgetError,
    CheckpointError,
    ExportError,
    ModelNotFoundError,
    OutputError,
    UnsupportedError,
)
from glimpse_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from glimpse_export.exporter import export, plan
    from glimpse_export.planning.options import ExportOptions
    from glimpse_export.planning.plan import Plan

__getattr__ = lazy_names(
    __name__,
    {
        "ExportOptions": "glimpse_export.planning.options",
        "Plan": "glimpse_export.planning.plan",
        "export": "glimpse_export.exporter",
        "plan": "glimpse_export.exporter",
    },
)

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ExportError",
    "ExportOptions",
    "ModelNotFoundError",
    "OutputError",
    "Plan",
    "UnsupportedError",
    "export",
    "plan",
]
