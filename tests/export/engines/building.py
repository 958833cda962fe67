"""Builds the engines of a bundle in this process."""

from pathlib import Path
from typing import Any

from glimpse_export.engines.builder import build_engines
from glimpse_export.engines.options import BuildOptions
from glimpse_runtime.engines.store import StoredEngine


def build(bundle: Path, target: str = "tensorrt", **options: Any) -> tuple[dict[str, StoredEngine], list[str]]:
    """Builds; returns the engines by stage, and what was said."""
    said: list[str] = []
    engines = build_engines(bundle, BuildOptions(target, **options), said.append)
    return {engine.record.key.stage: engine for engine in engines}, said
