"""CUDA for tests on machines without it; ``install`` puts it where the driver would be."""

import functools
import gc
import weakref

import pytest

from stand_ins.fake_cuda.device import ALIGNMENT, Device, FakeCudaError, Work, view
from stand_ins.fake_cuda.driver import CudaError, FakeDriver

__all__ = ["ALIGNMENT", "CudaError", "Device", "FakeCudaError", "FakeDriver", "Work", "current", "install", "view"]

_installed: list[weakref.ref[Device]] = []


@functools.cache
def _spare_what_stays() -> None:
    """Has later collections pass over libraries and tests: looking through them takes longer than most tests."""
    gc.freeze()


def install(monkeypatch: pytest.MonkeyPatch, has_pools: bool = True, memory_bytes: int = 1 << 34) -> FakeDriver:
    """Makes a fresh fake device the one that the code under test finds."""
    gc.collect()  # devices and what runs on them refer to each other; left to itself, Python keeps gigabytes of them
    _spare_what_stays()
    driver = FakeDriver(Device(memory_bytes), has_pools)
    _installed[:] = [weakref.ref(driver.device)]
    monkeypatch.setattr("glimpse_runtime.backends.cuda.calls.open_driver", lambda: driver)
    return driver


def current() -> Device:
    """Returns the device that was installed last."""
    device = _installed[0]()
    assert device is not None, "the test that the device was for has ended"
    return device
