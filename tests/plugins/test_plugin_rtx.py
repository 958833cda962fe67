"""TensorRT-RTX builds the compact stage ahead of time: as one plugin layer, and without the plugin from the body."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from compaction_cases import Geometry
from implementations import save_graph

from glimpse_plugins.build import build_plugin
from glimpse_plugins.errors import PluginError

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


@pytest.fixture(scope="module")
def plugin() -> Path:
    if not os.environ.get("TENSORRT_INCLUDE_DIR"):
        pytest.skip("TENSORRT_INCLUDE_DIR does not name the folder of NvInfer.h")
    try:
        return build_plugin([89], need_tensorrt=True).library
    except PluginError as error:
        pytest.skip(str(error))


def build_engine(folder: Path, geometry: Geometry, *arguments: str | Path, opset: int = 24) -> dict[str, Any]:
    """Builds the engine in a process that finds the library under the name that the parser asks for."""
    save_graph(folder / "compact.onnx", opset, geometry)
    libraries = importlib.util.find_spec("tensorrt_rtx_libs")
    assert libraries is not None
    assert libraries.submodule_search_locations is not None
    (library,) = Path(libraries.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*")
    (folder / "libtensorrt_rtx.so").symlink_to(library)
    script = Path(__file__).parent / "rtx_build.py"
    command = [
        sys.executable,
        script,
        folder / "compact.onnx",
        str(geometry.capacity),
        str(geometry.hidden),
        *arguments,
    ]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_outputs(report: dict[str, Any], geometry: Geometry, cache: str) -> None:
    outputs = report["outputs"]
    assert outputs.pop("count") == ["INT32", []]
    assert outputs.pop("hidden_out") == ["FLOAT", [1, -1, geometry.hidden]]
    assert outputs.pop("positions_out") == ["INT32", [3, -1]]
    names = [f"present.{layer}.{part}" for layer in range(geometry.layers) for part in ("key", "value")]
    assert outputs == {name: [cache, list(geometry.cache_shape)] for name in names}


CACHES = [("float32", "FLOAT"), ("float16", "HALF"), (ml_dtypes.bfloat16, "BF16"), ("int8", "INT8")]


@pytest.mark.parametrize(("dtype", "cache"), CACHES, ids=[name for _, name in CACHES])
def test_the_stage_is_one_plugin_layer(tmp_path: Path, plugin: Path, dtype: str, cache: str) -> None:
    geometry = Geometry(layers=3, cache=np.dtype(dtype))
    report = build_engine(tmp_path, geometry, "--plugin", plugin)
    assert report["layers"] == ["PLUGIN_V3"], report
    assert (report["errors"], report["log"]) == ([], [])
    assert report["engine_bytes"] > 0
    check_outputs(report, geometry, cache)


@pytest.mark.parametrize("arguments", [["--int32"], ["--in-place"]])
def test_other_forms_of_the_plugin(tmp_path: Path, plugin: Path, arguments: list[str]) -> None:
    geometry = Geometry(layers=36, kv_heads=2, capacity=4096, width=128, hidden=2048, cache=np.dtype("float16"))
    report = build_engine(tmp_path, geometry, "--plugin", plugin, *arguments, opset=20)
    assert report["layers"] == ["PLUGIN_V3"], report
    assert report["engine_bytes"] > 0
    check_outputs(report, geometry, "HALF")


@pytest.mark.parametrize("opset", [20, 24])
@pytest.mark.parametrize(("dtype", "cache"), CACHES[:3], ids=[name for _, name in CACHES[:3]])
def test_without_the_plugin_the_body_is_built(tmp_path: Path, dtype: str, cache: str, opset: int) -> None:
    geometry = Geometry(layers=2, cache=np.dtype(dtype))
    report = build_engine(tmp_path, geometry, opset=opset)
    assert "PLUGIN_V3" not in report["layers"]
    assert {"CUMULATIVE", "SCATTER", "GATHER"} <= set(report["layers"])
    assert report["engine_bytes"] > 0, report
    check_outputs(report, geometry, cache)
