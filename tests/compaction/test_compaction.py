"""One set of properties for every implementation of the compaction of kept tokens."""

import numpy as np
import pytest
from compaction_cases import CACHE_DTYPES, Geometry, assert_compacted, make_case, random_cases
from implementations import HostKernel, Implementation, Numpy, OnnxFunction

from glimpse_plugins.library import KeepForm

IMPLEMENTATIONS = {
    "numpy": lambda folder: Numpy(in_place=False),
    "numpy-in-place": lambda folder: Numpy(in_place=True),
    "onnx-function-opset20": lambda folder: OnnxFunction(20, folder),
    "onnx-function-opset24": lambda folder: OnnxFunction(24, folder),
    "host-bytes": lambda folder: HostKernel(False, KeepForm.MASK_BYTES),
    "host-bytes-in-place": lambda folder: HostKernel(True, KeepForm.MASK_BYTES),
    "host-int32-in-place": lambda folder: HostKernel(True, KeepForm.MASK_INT32, seed=77),
    "host-index": lambda folder: HostKernel(False, KeepForm.INDEX_INT32, seed=1),
    "host-index-in-place": lambda folder: HostKernel(True, KeepForm.INDEX_INT32, seed=150),
}


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def compact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Implementation:
    return IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("compaction"))


def test_a_thousand_random_masks(compact: Implementation) -> None:
    for index, dtype in enumerate(CACHE_DTYPES):
        for case in random_cases(index, 250, Geometry(cache=dtype)):
            assert_compacted(case, compact(case.copy()))


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 48])
@pytest.mark.parametrize("kept", ["none", "first", "last", "all", "every-other"])
def test_edges_of_the_mask(compact: Implementation, dtype: np.dtype, rows: int, kept: str) -> None:
    keep = np.zeros(rows, bool)
    keep[
        {"none": slice(0, 0), "first": slice(1), "last": slice(-1, None), "all": slice(None)}.get(
            kept, slice(0, None, 2)
        )
    ] = True
    case = make_case(np.random.default_rng(rows), Geometry(cache=dtype), keep)
    assert_compacted(case, compact(case.copy()))


GEOMETRIES = [
    Geometry(layers=1, hidden=1, kv_heads=1, capacity=3, width=1),
    Geometry(layers=36, hidden=8, kv_heads=2, capacity=16, width=4, cache=CACHE_DTYPES[1]),
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
