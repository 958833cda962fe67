"""Exports a Qwen2.5-VL checkpoint with a GlimpsePrune adapter to a bundle of split ONNX graphs."""

from glimpse_export.errors import (
    CheckpointError,
    ExportError,
    ModelNotFoundError,
    OutputError,
    UnsupportedError,
)
from glimpse_export.exporter import ExportOptions, export
from glimpse_export.plan import Plan, plan

__all__ = [
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
