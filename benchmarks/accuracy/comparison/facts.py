"""Which model answered, on what machine."""

import math
import os
import platform
from importlib.metadata import version
from typing import Any

from glimpse_runtime import Session

_DECIMALS = 6


def model_facts(session: Session) -> dict[str, Any]:
    """Returns which model answered."""
    manifest = session.bundle.manifest
    source = manifest.model.source
    return {
        "name": manifest.model.name,
        "base_sha256": source.base_sha256,
        "adapter_sha256": source.adapter_sha256,
        "precision": manifest.precision,
        "threshold": manifest.pruning.threshold,
        "layers": manifest.text.layers,
        "lower_layers": manifest.text.lower_layers,
    }


def machine(device: str, threads: int | None) -> dict[str, Any]:
    """Returns what the times were measured on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "device": device,
        "threads": threads,
        "onnxruntime": version("onnxruntime"),
    }


def load_average() -> float | None:
    """Returns how many processes wanted a core in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def rounded(value: Any) -> Any:
    """Returns a result with shorter numbers."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return round(value, _DECIMALS) if isinstance(value, float) and math.isfinite(value) else value
