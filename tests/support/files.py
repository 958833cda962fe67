"""Changes to files of checkpoints, and what an export leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def edit_json(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON object; ``...`` takes one away."""
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data.pop(key, None) if value is ... else data.update({key: value})
    path.write_text(json.dumps(data))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Changes the tensors of a safetensors file."""
    import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
