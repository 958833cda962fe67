"""The stand-in of TensorRT's runtime has only what the real module has."""

import sys
from pathlib import Path

import pytest
from support.places import FAKE_TENSORRT

CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache")
OURS = {"tensor", "settings", "registry", "inputs", "outputs", "profiles", "plan", "logger"}  # of the stand-in alone


@pytest.mark.rtx
def test_every_method_of_the_stand_in_is_one_of_tensorrt_rtx(fake_tensorrt: pytest.MonkeyPatch) -> None:
    from fake_trt import runtime

    sys.path.remove(str(FAKE_TENSORRT))
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert not Path(real.__file__).is_relative_to(FAKE_TENSORRT)
    for name in CLASSES:
        found = {key for key in vars(getattr(runtime, name)) if not key.startswith("_")} - OURS
        assert found <= set(dir(getattr(real, name))), name
    for name in ("TensorLocation", "ExecutionContextAllocationStrategy", "CudaGraphStrategy"):
        for key, value in getattr(runtime, name).__members__.items():
            assert int(getattr(real, name).__members__[key]) == value


@pytest.mark.rtx
def test_a_mapped_file_is_taken_for_an_engine(tmp_path: Path) -> None:
    """It is read, and refused for what it holds; there is no GPU to load a real one."""
    import mmap

    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    from glimpse_runtime.engines.log import Messages, make_logger

    messages = Messages()
    path = tmp_path / "no.engine"
    path.write_bytes(b"no engine" * 1000)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert trt.Runtime(make_logger(trt, messages)).deserialize_cuda_engine(data) is None
    assert "erialization" in messages.take()
    assert "gave no reason" in messages.take()
