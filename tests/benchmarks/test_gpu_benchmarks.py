"""The measurements of benchmarks/speed/gpu, on stand-ins of a GPU and without one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from stand_ins.fake_cuda.ort import FakeOnnxRuntime
from stand_ins.gpu_stand_in import ORIN, build, plug_in, put_in_gpu
from support.places import ROOT
from support.slow import slow

from glimpse_runtime.backends import ort_cuda

GPU = ROOT / "benchmarks" / "speed" / "gpu"
NO_GPU = 3


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("words", [("stages", "--bundle", "nowhere"), ("conformance", "nowhere")])
def test_without_a_gpu_they_say_so_and_exit_with_3(words: tuple[str, ...], device: str, tmp_path: Path) -> None:
    if words[0] == "stages":
        words = ("stages", "--bundle", str(ROOT / "models/glimpse_models/pocket/bundle"))
    done = subprocess.run(
        [sys.executable, GPU / f"{words[0]}.py", "--device", device, *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GLIMPSE_CACHE": str(tmp_path)},
    )
    assert done.returncode == NO_GPU, done.stderr
    assert f"This cannot run on the device {device}: " in done.stderr
    assert "Traceback" not in done.stderr


SMALL = ("--visual-tokens", "72", "--text-tokens", "16", "--steps", "3", "--repeats", "2")


@slow
def test_stage_times_on_tensorrt(
    fake_tensorrt: pytest.MonkeyPatch, engine_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = plug_in(fake_tensorrt, "tensorrt", "10.15.1")
    build(fake_tensorrt, engine_bundle, "tensorrt")
    stages = script("stages", fake_tensorrt)
    words = ["--bundle", str(engine_bundle), "--device", "tensorrt", *SMALL]
    assert stages.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["milliseconds"]
    assert found["unpruned"]["kept"] == 72
    assert found["pruned"]["kept"] == 10
    for way in found.values():
        assert all(way[name] > 0 for name in ("vision", "lower", "upper", "decode", "ttft"))
    assert found["unpruned"]["score"] == 0 < found["pruned"]["score"]
    assert stages.main(words) == 0
    assert "ttft" in capsys.readouterr().out
    assert runtime.device.leaks() == []


def test_golden_vectors_of_one_case(
    monkeypatch: pytest.MonkeyPatch, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    folder = one_case(golden, tmp_path)
    runtime = put_in_gpu(monkeypatch, ORIN)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(runtime.device))
    conformance = script("conformance", monkeypatch)
    assert conformance.main(["--device", "cuda", "--precision", "fp32", "--precision", "fp16", str(folder)]) == 0
    assert "IoU of kept tokens 1.000" in capsys.readouterr().out
    assert runtime.device.leaks() == []
    # Where compaction moves nothing, tokens differ that are not close.
    monkeypatch.setattr(ort_cuda.OrtCudaBackend, "compact", lambda self, buffers, hidden, keep: None)
    assert conformance.main(["--device", "cuda", "--precision", "fp16", str(folder)]) == 1
    assert "differs, and its logits are not close" in capsys.readouterr().out


def test_golden_vectors_in_float32_on_tensorrt_are_compared_array_by_array(
    fake_tensorrt: pytest.MonkeyPatch, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    folder = one_case(golden, tmp_path)
    plug_in(fake_tensorrt, "tensorrt", "10.15.1")
    conformance = script("conformance", fake_tensorrt)
    fake_tensorrt.setattr(conformance, "build", lambda folder, device: build(fake_tensorrt, folder, device))
    assert conformance.main(["--device", "tensorrt", "--precision", "fp32", str(folder)]) == 0
    assert "33 arrays" in capsys.readouterr().out


def one_case(golden: Path, place: Path) -> Path:
    """A model folder with the first case alone."""
    name = sorted(path.stem for path in (golden / "cases").glob("*.npz"))[0]
    for part in ("base", "adapter"):
        shutil.copytree(golden / part, place / "model" / part)
    for path in [*(golden / "images").glob(f"{name}*"), *(golden / "cases").glob(f"{name}*")]:
        target = place / "model" / path.relative_to(golden)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    return place / "model"
