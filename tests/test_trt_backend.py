"""The TensorRT backend, whole answers and golden vectors, on a stand-in of CUDA and TensorRT."""

from collections.abc import Iterator
from pathlib import Path

import conformance
import pytest
from fake_cuda import Runtime
from gpu_stand_in import GPU_OF, build, plug_in

from glimpse_runtime.bundle import Bundle

CASES = sorted(path.stem for path in (Path(__file__).parent / "golden" / "modelA" / "cases").glob("*.npz"))
# What is installed, the dialect that follows, and whether the KV cache is updated in place.
MACHINES = [("tensorrt", "10.3.0"), ("tensorrt", "10.15.1"), ("tensorrt", "11.1.0"), ("tensorrt-rtx", "1.7.1")]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """The golden model in both dialects, with the outputs that tracing adds."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import ExportOptions, export

    places = str(golden / "base"), str(golden / "adapter")
    options = ExportOptions(*places, dialects=("opset24", "plain"), tokenizer=False, trace=True, certify="off")
    return export(options, tmp_path_factory.mktemp("trt") / "bundle")


@pytest.fixture(params=MACHINES, ids=lambda machine: " ".join(machine))
def machine(
    request: pytest.FixtureRequest,
    fake_tensorrt: pytest.MonkeyPatch,
    traced: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Runtime]]:
    """A target with its engines built, and the fake device; nothing may be left on it."""
    target, version = request.param
    fake_tensorrt.setenv("FAKE_TENSORRT_RTX" if target == "tensorrt-rtx" else "FAKE_TENSORRT", version)
    runtime = plug_in(fake_tensorrt, GPU_OF[target])
    build(fake_tensorrt, traced, target)
    yield target, runtime
    assert runtime.device.leaks() == []


@pytest.mark.parametrize("name", CASES)
def test_golden_vectors(machine: tuple[str, Runtime], golden: Path, traced: Path, name: str) -> None:
    result = conformance.run_case(golden, name, Bundle.open(traced), device=machine[0])
    assert not result.problems
    assert result.compared >= 14
