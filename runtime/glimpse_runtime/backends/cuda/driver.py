"""The CUDA driver's C interface by way of ctypes: its functions with their types, in one table.

The driver's library is wherever a GPU is, under one name, and its functions are the same on CUDA 12 and 13, on a
desktop and on a Jetson. So nothing of CUDA has to be installed beside it. Names and types are those of ``cuda.h``; a
function that gives something back through a pointer has it as its result here.
"""

import ctypes
from typing import Any, NamedTuple, Protocol

from glimpse_runtime.engines.gpu import DRIVER
from glimpse_runtime.errors import BackendError

SUCCESS = 0
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
BLOCKING_SYNC, DISABLE_TIMING = 1, 2  # CU_EVENT_*
CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
MEMORY_POOLS_SUPPORTED = 115  # CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
RELEASE_THRESHOLD = 4  # CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_PINNED, _ON_DEVICE = 1, 1  # CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE
_MEMORY_OF_DEVICE = 2  # CU_MEMORYTYPE_DEVICE


class PoolProperties(ctypes.Structure):
    """``CUmemPoolProps``."""

    _fields_ = (
        ("allocation_type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location_type", ctypes.c_int),
        ("location_id", ctypes.c_int),
        ("security_attributes", ctypes.c_void_p),
        ("maximum_bytes", ctypes.c_size_t),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 54),
    )


class Copy2d(ctypes.Structure):
    """``CUDA_MEMCPY2D``."""

    _fields_ = (
        ("source_x_bytes", ctypes.c_size_t),
        ("source_y", ctypes.c_size_t),
        ("source_type", ctypes.c_int),
        ("source_host", ctypes.c_void_p),
        ("source", ctypes.c_uint64),
        ("source_array", ctypes.c_void_p),
        ("source_pitch", ctypes.c_size_t),
        ("target_x_bytes", ctypes.c_size_t),
        ("target_y", ctypes.c_size_t),
        ("target_type", ctypes.c_int),
        ("target_host", ctypes.c_void_p),
        ("target", ctypes.c_uint64),
        ("target_array", ctypes.c_void_p),
        ("target_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
    )


def pool_on(device: int) -> PoolProperties:
    """Returns the properties of a pool of a device's memory."""
    return PoolProperties(allocation_type=_PINNED, location_type=_ON_DEVICE, location_id=device)


def blocks(source: int, source_pitch: int, target: int, target_pitch: int, width: int, count: int) -> Copy2d:
    """Returns the copy of ``count`` blocks of ``width`` bytes on the device, which begin every so many bytes."""
    return Copy2d(
        source_type=_MEMORY_OF_DEVICE,
        source=source,
        source_pitch=source_pitch,
        target_type=_MEMORY_OF_DEVICE,
        target=target,
        target_pitch=target_pitch,
        width=width,
        count=count,
    )


class Function(NamedTuple):
    """A function of the driver.

    Attributes:
        takes: types of its parameters, without the pointer to its result.
        gives: type of its result, None if it has none.
        result_at: place of the pointer to the result among the parameters.
    """

    takes: tuple[Any, ...]
    gives: Any = None
    result_at: int = 0


_INT, _UINT, _SIZE, _ADDRESS, _POINTER = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.c_uint64,
    ctypes.c_void_p,
)
FUNCTIONS = {
    "cuInit": Function((_UINT,)),
    "cuDriverGetVersion": Function((), _INT),
    "cuDeviceGet": Function((_INT,), _INT),
    "cuDeviceGetAttribute": Function((_INT, _INT), _INT),
    "cuDevicePrimaryCtxRetain": Function((_INT,), _POINTER),
    "cuDevicePrimaryCtxRelease_v2": Function((_INT,)),
    "cuCtxSetCurrent": Function((_POINTER,)),
    "cuStreamCreate": Function((_UINT,), _POINTER),
    "cuStreamDestroy_v2": Function((_POINTER,)),
    "cuStreamSynchronize": Function((_POINTER,)),
    "cuMemPoolCreate": Function((ctypes.POINTER(PoolProperties),), _POINTER),
    "cuMemPoolDestroy": Function((_POINTER,)),
    "cuMemPoolSetAttribute": Function((_POINTER, _INT, ctypes.POINTER(ctypes.c_uint64))),
    "cuMemAlloc_v2": Function((_SIZE,), _ADDRESS),
    "cuMemFree_v2": Function((_ADDRESS,)),
    "cuMemAllocFromPoolAsync": Function((_SIZE, _POINTER, _POINTER), _ADDRESS),
    "cuMemFreeAsync": Function((_ADDRESS, _POINTER)),
    "cuMemHostAlloc": Function((_SIZE, _UINT), _POINTER),
    "cuMemFreeHost": Function((_POINTER,)),
    "cuMemcpyHtoDAsync_v2": Function((_ADDRESS, _POINTER, _SIZE, _POINTER)),
    "cuMemcpyDtoHAsync_v2": Function((_POINTER, _ADDRESS, _SIZE, _POINTER)),
    "cuMemcpyDtoDAsync_v2": Function((_ADDRESS, _ADDRESS, _SIZE, _POINTER)),
    "cuMemcpy2DAsync_v2": Function((ctypes.POINTER(Copy2d), _POINTER)),
    "cuMemsetD8Async": Function((_ADDRESS, ctypes.c_ubyte, _SIZE, _POINTER)),
    "cuEventCreate": Function((_UINT,), _POINTER),
    "cuEventDestroy_v2": Function((_POINTER,)),
    "cuEventRecord": Function((_POINTER, _POINTER)),
    "cuEventSynchronize": Function((_POINTER,)),
    "cuEventElapsedTime": Function((_POINTER, _POINTER), ctypes.c_float),
    "cuStreamBeginCapture_v2": Function((_POINTER, _INT)),
    "cuStreamEndCapture": Function((_POINTER,), _POINTER, result_at=1),
    "cuGraphInstantiateWithFlags": Function((_POINTER, ctypes.c_uint64), _POINTER),
    "cuGraphLaunch": Function((_POINTER, _POINTER)),
    "cuGraphDestroy": Function((_POINTER,)),
    "cuGraphExecDestroy": Function((_POINTER,)),
    "cuModuleLoadData": Function((_POINTER,), _POINTER),
    "cuModuleUnload": Function((_POINTER,)),
    "cuModuleGetFunction": Function((_POINTER, ctypes.c_char_p), _POINTER),
    "cuFuncSetAttribute": Function((_POINTER, _INT, _INT)),
    "cuLaunchKernel": Function((_POINTER, *(_UINT,) * 7, _POINTER, ctypes.POINTER(_POINTER), _POINTER)),
    "cuGetErrorName": Function((_INT,), ctypes.c_char_p, result_at=1),
    "cuGetErrorString": Function((_INT,), ctypes.c_char_p, result_at=1),
}
"""The functions that are used, by their names in the library."""


class Driver(Protocol):
    """What calls them."""

    def __call__(self, function: str, *arguments: Any) -> tuple[int, Any]:
        """Returns the status, ``SUCCESS`` or an error, and the result, None where there is none."""
        ...


class LibraryDriver:
    """The driver of this machine."""

    def __init__(self) -> None:
        """Loads its library.

        Raises:
            BackendError: there is none, or it is older than CUDA 11.4.
        """
        try:
            library = ctypes.CDLL(DRIVER)
        except OSError as error:
            raise BackendError(
                f"there is no NVIDIA driver here ({error}): install it, in a container start that with --gpus all, or "
                "use the device cpu"
            ) from None
        self._bound = {}
        for name, (takes, gives, at) in FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise BackendError(
                    f"the NVIDIA driver has no {name}, so it is older than CUDA 11.4: bring it up to date, CUDA 12 or "
                    "later"
                ) from None
            function.argtypes = takes if gives is None else (*takes[:at], ctypes.POINTER(gives), *takes[at:])
            function.restype = ctypes.c_int
            self._bound[name] = function, gives, at

    def __call__(self, function: str, *arguments: Any) -> tuple[int, Any]:
        """Calls a function; see ``Driver``."""
        bound, gives, at = self._bound[function]
        if gives is None:
            return bound(*arguments), None
        result = gives()
        status = bound(*arguments[:at], ctypes.byref(result), *arguments[at:])
        return status, result.value


def open_driver() -> Driver:
    """Loads the driver of this machine.

    Raises:
        BackendError: there is none.
    """
    return LibraryDriver()
