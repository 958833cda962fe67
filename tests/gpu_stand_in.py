"""A machine with a GPU and TensorRT that is neither: engines are built and run, and their numbers are right."""

from pathlib import Path

import fake_cuda
import pytest

from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import Gpu

ORIN = Gpu("Orin", (8, 7), 16 << 30, True)
DESKTOP = Gpu("RTX 4090", (8, 9), 24 << 30, False)
GPU_OF = {"tensorrt": ORIN, "tensorrt-rtx": DESKTOP}


def plug_in(monkeypatch: pytest.MonkeyPatch, gpu: Gpu = ORIN, memory_bytes: int = 1 << 34) -> fake_cuda.Runtime:
    """Puts the GPU in; the fixture ``fake_tensorrt`` is needed beside it for TensorRT."""
    for module in ("backends.trt.backend", "backends.ort_cuda"):
        monkeypatch.setattr(f"glimpse_runtime.{module}.current_gpu", lambda: gpu)
    return fake_cuda.install(monkeypatch, memory_bytes=memory_bytes)


def build(monkeypatch: pytest.MonkeyPatch, bundle: Path, target: str, dialect: str | None = None) -> None:
    """Builds a bundle's engines as ``glimpse-export --bundle`` does, but in this process."""
    from glimpse_export.engines import builder
    from glimpse_export.engines.build import build_engine

    monkeypatch.setattr(builder, "current_gpu", lambda: GPU_OF[target])
    monkeypatch.setattr(builder, "build_apart", lambda job: build_engine(installed(target), job))
    options = builder.BuildOptions(target, dialect, plugin=False)
    builder.build_engines(bundle, options, lambda text: None)
