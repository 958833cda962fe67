"""The GPU that engines are built for and run on, asked of the CUDA driver alone: building needs no other library."""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""Name of the driver's library."""
_NAME_BYTES = 256
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, (8, 7) for the Jetson Orin.
        memory_bytes: its memory in all.
        is_integrated: CPU and GPU share that memory.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    is_integrated: bool

    def __str__(self) -> str:
        """Name and compute capability."""
        return f"{self.name} ({self.capability[0]}.{self.capability[1]})"


@cache
def driver_version() -> int | None:
    """Returns the version of CUDA that the driver is of, 12060 for 12.6; None when there is no driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    version = ctypes.c_int()
    return None if driver.cuDriverGetVersion(ctypes.byref(version)) else version.value


@cache
def current_gpu() -> Gpu | None:
    """Returns the first CUDA device, None when there is no driver or no device."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDeviceGetName(name, _NAME_BYTES, device) or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        return None
    values = {}
    for attribute in (_MAJOR, _MINOR, _INTEGRATED):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        values[attribute] = value.value
    capability = values[_MAJOR], values[_MINOR]
    return Gpu(name.value.decode(errors="replace"), capability, total.value, bool(values[_INTEGRATED]))
