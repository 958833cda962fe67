"""A picture of another shape, and packages that bring methods."""

from pathlib import Path

import numpy as np
import pytest
from support.pruners import Install

from glimpse_runtime.pruners import GROUP


@pytest.fixture
def photo() -> np.ndarray:
    """A picture with structure, (224, 336, 3) uint8: 8 x 12 visual tokens."""
    rows, columns = np.mgrid[:224, :336]
    return np.stack([rows, columns % 256, (rows * columns) % 251], axis=-1).astype(np.uint8)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a module and its entry point look like an installed package."""

    def make(name: str, code: str, target: str = "PRUNER") -> None:
        module = f"module_{name.replace('-', '_')}"
        folder = tmp_path / name
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:{target}\n")
        monkeypatch.syspath_prepend(folder)

    return make
