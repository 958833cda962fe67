"""CUDA for tests on machines without it; ``install`` puts it where ``from cuda.bindings import runtime`` finds it."""

import functools
import gc
import sys
from types import ModuleType

import pytest

from stand_ins.fake_cuda.device import ALIGNMENT, Device, FakeCudaError, Work, view
from stand_ins.fake_cuda.runtime import Runtime, cudaError_t, cuuint64_t

__all__ = ["ALIGNMENT", "Device", "FakeCudaError", "Runtime", "Work", "cudaError_t", "install", "view"]


@functools.cache
def _spare_what_stays() -> None:
    """Has later collections pass over libraries and tests: looking through them takes longer than most tests."""
    gc.freeze()


def install(monkeypatch: pytest.MonkeyPatch, has_pools: bool = True, memory_bytes: int = 1 << 34) -> Runtime:
    """Makes a fresh fake device the one that the code under test finds."""
    gc.collect()  # devices and what runs on them refer to each other; left to itself, Python keeps gigabytes of them
    _spare_what_stays()
    runtime = Runtime(Device(memory_bytes), has_pools)
    driver = ModuleType("cuda.bindings.driver")
    driver.cuuint64_t = cuuint64_t
    bindings = ModuleType("cuda.bindings")
    bindings.runtime, bindings.driver = runtime, driver
    package = ModuleType("cuda")
    package.bindings = bindings
    for name, module in {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.driver": driver}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return runtime
