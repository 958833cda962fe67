"""One set of properties for every implementation of the compaction of kept tokens."""

from functools import partial

import numpy as np
import pytest
from compaction_cases import CACHE_DTYPES, Geometry, assert_compacted, make_case, random_cases
from implementations import Implementation, Numpy, OnnxFunction, OrtOperator
from kernels import gpu_kernel, host_kernel
from tensorrt_host import TensorRtPlugin

from glimpse_plugins.library import KeepForm

BYTES, INT32, INDEX = KeepForm
KERNELS = {
    "host-bytes": partial(host_kernel, BYTES, in_place=False),
    "host-bytes-in-place": partial(host_kernel, BYTES, in_place=True, order=77),
    "host-bytes-in-place-backwards": partial(host_kernel, BYTES, in_place=True, order=22),
    "host-int32-in-place": partial(host_kernel, INT32, in_place=True),
    "host-index": partial(host_kernel, INDEX, in_place=False, order=1),
    "host-index-in-place-misaligned": partial(host_kernel, INDEX, in_place=True, order=150, misaligned_bytes=7),
    "host-int32-misaligned": partial(host_kernel, INT32, in_place=False, misaligned_bytes=10),
    "gpu-bytes": partial(gpu_kernel, BYTES, in_place=False),
    "gpu-bytes-in-place": partial(gpu_kernel, BYTES, in_place=True),
    "gpu-int32-in-place-misaligned": partial(gpu_kernel, INT32, in_place=True, misaligned_bytes=7),
    "gpu-index-misaligned": partial(gpu_kernel, INDEX, in_place=False, misaligned_bytes=10),
}
IMPLEMENTATIONS = {
    "numpy": lambda folder: Numpy(in_place=False),
    "numpy-in-place": lambda folder: Numpy(in_place=True),
    "onnx-function-opset20": lambda folder: OnnxFunction(20, folder),
    "onnx-function-opset24": lambda folder: OnnxFunction(24, folder),
    "ort-operator": lambda folder: OrtOperator(folder),
    "ort-operator-int32": lambda folder: OrtOperator(folder, np.int32),
    "tensorrt-plugin": lambda folder: TensorRtPlugin(),
    "tensorrt-plugin-int32": lambda folder: TensorRtPlugin(np.int32),
    **{name: lambda folder, make=make: make() for name, make in KERNELS.items()},
}
PARAMETERS = [
    pytest.param(name, id=name, marks=[pytest.mark.gpu] if name.startswith("gpu") else []) for name in IMPLEMENTATIONS
]


@pytest.fixture(params=PARAMETERS, scope="module")
def compact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Implementation:
    return IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("compaction"))


def test_a_thousand_random_masks(compact: Implementation) -> None:
    for index, dtype in enumerate(CACHE_DTYPES):
        for case in random_cases(index, 250, Geometry(cache=dtype)):
            assert_compacted(case, compact(case.copy()))


EDGES = {
    "none": slice(0, 0),
    "first": slice(1),
    "last": slice(-1, None),
    "all": slice(None),
    "every other": slice(None, None, 2),
}


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_edges_of_the_mask(compact: Implementation, dtype: np.dtype) -> None:
    for rows in (1, 2, 31, 48):
        for kept in EDGES.values():
            keep = np.zeros(rows, bool)
            keep[kept] = True
            case = make_case(np.random.default_rng(rows), Geometry(cache=dtype), keep)
            assert_compacted(case, compact(case.copy()))


GEOMETRIES = [
    Geometry(layers=1, hidden=1, kv_heads=1, capacity=3, width=1),
    Geometry(layers=36, hidden=8, kv_heads=2, capacity=16, width=4, cache=CACHE_DTYPES[1]),
    Geometry(layers=110, hidden=3, kv_heads=1, capacity=9, width=3, cache=CACHE_DTYPES[1]),
    Geometry(layers=2, hidden=7, kv_heads=3, capacity=77, width=13, cache=CACHE_DTYPES[3]),
    Geometry(layers=2, hidden=5, kv_heads=1, capacity=33, width=10, cache=CACHE_DTYPES[2]),
    Geometry(layers=1, hidden=2048, kv_heads=4, capacity=1500, width=128, cache=CACHE_DTYPES[1]),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: f"{geometry.layers}x{geometry.cache_shape}")
def test_shapes(compact: Implementation, geometry: Geometry) -> None:
    for case in random_cases(7, 5, geometry):
        assert_compacted(case, compact(case.copy()))


def test_a_long_prompt(compact: Implementation) -> None:
    geometry = Geometry(layers=1, hidden=4, kv_heads=1, capacity=16384, width=4, cache=CACHE_DTYPES[1])
    rng = np.random.default_rng(16384)
    for share in (0.02, 0.5, 1.0):
        case = make_case(rng, geometry, rng.random(16384) < share)
        assert_compacted(case, compact(case.copy()))
