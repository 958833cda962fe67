"""A machine with a GPU and TensorRT that is neither: engines are built and run, and their numbers are right."""

import os
from pathlib import Path

import pytest

from glimpse_runtime.backends.cuda.compaction import KernelCompaction
from glimpse_runtime.backends.cuda.memory import DeviceMemory
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import Gpu
from stand_ins import fake_cuda
from stand_ins.fake_cuda.kernels import StreamedLibrary

ORIN = Gpu("Orin", (8, 7), 16 << 30, True)
DESKTOP = Gpu("RTX 4090", (8, 9), 24 << 30, False)
GPU_OF = {"tensorrt": ORIN, "tensorrt-rtx": DESKTOP}
VERSION_OF = {"tensorrt": "FAKE_TENSORRT", "tensorrt-rtx": "FAKE_TENSORRT_RTX"}
_LOOK_UP = ("backends.trt.backend", "backends.ort_cuda")


def put_in_gpu(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> fake_cuda.FakeDriver:
    """Puts a GPU in."""
    for module in _LOOK_UP:
        monkeypatch.setattr(f"glimpse_runtime.{module}.current_gpu", lambda: gpu)
    return fake_cuda.install(monkeypatch)


def plug_in(monkeypatch: pytest.MonkeyPatch, target: str, version: str) -> fake_cuda.FakeDriver:
    """Puts GPU and TensorRT in; ``monkeypatch`` is that of the fixture ``fake_tensorrt``."""
    monkeypatch.setenv(VERSION_OF[target], version)
    return put_in_gpu(monkeypatch, GPU_OF[target])


def build(monkeypatch: pytest.MonkeyPatch, bundle: Path, target: str, dialect: str | None = None) -> Path:
    """Builds a bundle's engines as ``glimpse-export --bundle`` does, but in this process; returns their cache."""
    from glimpse_export.engines import builder
    from glimpse_export.engines.build.build import build_engine

    # The stand-in's engines lead to the graphs that they were built of, so their cache goes with the bundle.
    cache = bundle.parent / f"cache-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    monkeypatch.setenv("GLIMPSE_CACHE", str(cache))
    monkeypatch.setattr(builder, "current_gpu", lambda: GPU_OF[target])
    monkeypatch.setattr(builder, "build_apart", lambda job: build_engine(installed(target), job))
    builder.build_engines(bundle, builder.BuildOptions(target, dialect, plugin=False), lambda text: None)
    return cache


def put_in_kernels(monkeypatch: pytest.MonkeyPatch, runtime: fake_cuda.FakeDriver) -> StreamedLibrary:
    """Puts the kernel library in, built for the host; tests skip without a compiler."""
    from glimpse_plugins.build import build_host
    from glimpse_plugins.errors import PluginError
    from glimpse_plugins.library import CompactLibrary

    try:
        library = StreamedLibrary(runtime.device, CompactLibrary(build_host().library))
    except PluginError as error:
        pytest.skip(f"no kernel library for the host: {error}")

    def find(memory: DeviceMemory, gpu: Gpu | None) -> KernelCompaction:
        return KernelCompaction(memory, library)

    for module in ("backends.trt.backend", "backends.cuda.compaction"):
        monkeypatch.setattr(f"glimpse_runtime.{module}.find_kernels", find)
    return library
