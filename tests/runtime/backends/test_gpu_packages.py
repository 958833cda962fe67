"""The right packages for the driver, and never both of onnxruntime's: said before anything fails, with the command."""

import re
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest

from glimpse_runtime.backends.cuda import packages
from glimpse_runtime.backends.ort_cuda import OrtCudaBackend
from glimpse_runtime.backends.trt import TrtBackend
from glimpse_runtime.errors import BackendError


def install(monkeypatch: pytest.MonkeyPatch, driver: int | None, **versions: str) -> None:
    """Puts in a driver and the packages of those names, ``_`` for ``-``."""
    there = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages.metadata, "version", version)
    monkeypatch.setattr(packages, "driver_version", lambda: driver)


def build_for(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> SimpleNamespace:
    """An onnxruntime that was built for a version of CUDA."""
    info = ModuleType("onnxruntime.capi.build_and_package_info")
    if cuda is not None:
        info.cuda_version = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, info.__name__, info)
    return SimpleNamespace(__version__="1.31.1", get_available_providers=lambda: ["CUDAExecutionProvider"])


def test_both_packages_of_onnxruntime_are_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 13000, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    command = 'run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install "glimpse-edge[gpu]"'
    with pytest.raises(BackendError, match=f"both onnxruntime 1.32.0 and .*{re.escape(command)}"):
        OrtCudaBackend("cuda")
    for one in ("onnxruntime", "onnxruntime_gpu"):
        install(monkeypatch, 13000, **{one: "1.31.1"})
        packages.require_one_onnxruntime()


@pytest.mark.parametrize(
    ("driver", "built_for", "refused"),
    [
        (12060, "13.0", True),
        (12090, "12.8", False),
        (12020, "12.8", False),
        (13000, "12.8", False),
        (None, "13", False),
    ],
)
def test_a_driver_of_cuda_12_is_told_which_onnxruntime_serves_it(
    monkeypatch: pytest.MonkeyPatch, driver: int | None, built_for: str, refused: bool
) -> None:
    install(monkeypatch, driver, onnxruntime_gpu="1.31.1")
    ort = build_for(monkeypatch, built_for)
    if not refused:
        packages.require_driver_for_onnxruntime(ort)
        return
    monkeypatch.setattr("glimpse_runtime.backends.ort_cuda.import_onnxruntime", lambda extra: ort)
    with pytest.raises(
        BackendError, match=r"driver is of CUDA 12\.6, and onnxruntime-gpu 1\.31\.1 needs .* 13"
    ) as caught:
        OrtCudaBackend("cuda")
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.27"' in str(caught.value)


def test_a_driver_of_cuda_11_serves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 11040, onnxruntime_gpu="1.26.0")
    with pytest.raises(BackendError, match=r"of CUDA 11\.4, .* CUDA 12\.8: bring the driver up to date$"):
        packages.require_driver_for_onnxruntime(build_for(monkeypatch, "12.8"))


def test_a_build_that_does_not_tell_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 12060)
    packages.require_driver_for_onnxruntime(build_for(monkeypatch, None))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_driver_of_cuda_12_is_told_which_tensorrt_serves_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, 12080, **{f"{name}-cu13": "11.4.0"})
    with pytest.raises(BackendError, match=rf"pip uninstall -y {name} {name}-cu13 && pip install {name}-cu12, or"):
        TrtBackend(name)
    install(monkeypatch, 13000, **{f"{name}-cu13": "11.4.0"})
    packages.require_driver_for_tensorrt(name)
    install(monkeypatch, 12060)  # a Jetson, whose TensorRT is none of pip's
    packages.require_driver_for_tensorrt(name)
