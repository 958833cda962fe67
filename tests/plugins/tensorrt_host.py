"""The TensorRT plugin behind the same call: driven as TensorRT does, with the kernels compiled for the host."""

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from compaction_cases import CACHE_DTYPES, Case

from glimpse_plugins.build import KERNEL, SOURCES, TENSORRT
from glimpse_plugins.errors import PluginError
from glimpse_plugins.toolchain import find_nvcc
from glimpse_runtime.backends.compact import Compacted

FLOAT, HALF, INT8, INT32, BOOL, BF16 = 0, 1, 2, 3, 4, 7  # nvinfer1::DataType
CACHE_TYPES = dict(zip(CACHE_DTYPES, (FLOAT, HALF, BF16, INT8), strict=True))


class TensorRtPlugin:
    """``enqueue`` and everything before it."""

    def __init__(self, mask: type = np.bool_) -> None:
        self._mask = mask
        self._library = harness()

    def __call__(self, case: Case) -> Compacted:
        keep = np.where(case.keep, 1 << 30, 0).astype(self._mask)
        inputs = [keep, case.hidden, case.positions, *case.buffers]
        outputs = [np.full(1, -1, np.int32), *(np.full_like(array, 1) for array in inputs[1:])]
        cache_types = [CACHE_TYPES[buffer.dtype] for buffer in case.buffers]
        types = [BOOL if self._mask is np.bool_ else INT32, FLOAT, INT32, *cache_types]
        shapes = np.zeros((len(inputs), 5), np.int64)
        for row, array in zip(shapes, inputs, strict=True):
            row[: 1 + array.ndim] = array.ndim, *array.shape
        status = self._library.run_plugin(
            ctypes.c_int32(len(inputs)),
            shapes.ctypes.data_as(ctypes.c_void_p),
            np.array(types, np.int32).ctypes.data_as(ctypes.c_void_p),
            _addresses(inputs),
            _addresses(outputs),
        )
        assert status == 0, "see what enqueue.cpp says on standard error"
        kept = int(outputs[0][0])
        packed = outputs[2].reshape(-1)[: 3 * kept].reshape(3, kept)
        return Compacted(kept, outputs[1][:, :kept], packed, tuple(outputs[3:]))


def _addresses(arrays: list[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@cache
def harness() -> ctypes.CDLL:
    """Compiles kernels, plugin and harness for the host into one library."""
    include = os.environ.get("TENSORRT_INCLUDE_DIR")
    if not include:
        pytest.skip("TENSORRT_INCLUDE_DIR does not name the folder of NvInfer.h")
    try:
        nvcc = find_nvcc()  # for the C++ compiler with CUDA's headers, which TensorRT's need
    except PluginError as error:
        pytest.skip(str(error))
    library = Path(tempfile.mkdtemp(prefix="glimpse-enqueue-")) / "libenqueue.so"
    sources = [SOURCES / KERNEL, SOURCES / TENSORRT, Path(__file__).parent / "enqueue.cpp"]
    flags = ["-O1", "-std=c++17", "-shared", "-Xcompiler=-fPIC", "-DGLIMPSE_HOST", "-isystem", include]
    subprocess.run([nvcc, *flags, "-x", "c++", *sources, "-o", library], check=True)
    try:
        return ctypes.CDLL(str(library))
    finally:
        library.unlink()
        library.parent.rmdir()
