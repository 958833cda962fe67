"""Which packages serve this machine's driver: said before anything is loaded that would fail without a reason."""

import importlib
from importlib import metadata
from typing import Any

from glimpse_runtime.engines.gpu import driver_version
from glimpse_runtime.errors import BackendError

CUDA_12 = 12
_CPU_WHEEL, _GPU_WHEEL = "onnxruntime", "onnxruntime-gpu"
_ONE_ONNXRUNTIME = f'pip uninstall -y {_CPU_WHEEL} {_GPU_WHEEL} && pip install "glimpse-edge[gpu]"'
_ORT_FOR_CUDA_12 = 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.27"'
_NEWER_DRIVER = "or bring the driver up to date: 580 or later is of CUDA 13"


def require_one_onnxruntime() -> None:
    """Checks that the packages onnxruntime and onnxruntime-gpu, which have the same files, are not both installed.

    Raises:
        BackendError: they are, and which of them is imported is chance; with the command.
    """
    if _version(_CPU_WHEEL) and _version(_GPU_WHEEL):
        raise BackendError(
            f"both {_CPU_WHEEL} {_version(_CPU_WHEEL)} and {_GPU_WHEEL} {_version(_GPU_WHEEL)} are installed, and each "
            f"has overwritten files of the other; run: {_ONE_ONNXRUNTIME}"
        )


def require_driver_for_onnxruntime(ort: Any) -> None:
    """Checks that the driver is as new as the CUDA that onnxruntime was built for.

    Args:
        ort: the module; nothing is checked where it does not tell, as builds of one's own.

    Raises:
        BackendError: the driver is older; with the version of onnxruntime that serves it.
    """
    try:
        built_for = str(importlib.import_module("onnxruntime.capi.build_and_package_info").cuda_version)
        major = int(built_for.partition(".")[0])
    except (ImportError, AttributeError, ValueError):
        return
    driver = driver_version()
    if driver is not None and driver // 1000 < major:
        raise BackendError(_too_old(driver, f"onnxruntime-gpu {ort.__version__}", built_for, _ORT_FOR_CUDA_12))


def require_driver_for_tensorrt(name: str) -> None:
    """Checks that the driver is as new as the CUDA of the TensorRT that pip installed.

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        BackendError: the driver is of CUDA 12 and TensorRT of CUDA 13; with the package that serves it.
    """
    package = f"{name}-cu13"
    version, driver = _version(package), driver_version()
    if version is not None and driver is not None and driver // 1000 <= CUDA_12:
        command = f"pip uninstall -y {name} {package} && pip install {name}-cu12"
        raise BackendError(_too_old(driver, f"the package {package} {version}", "13", command))


def _too_old(driver: int, package: str, needed: str, command: str) -> str:
    have = f"{driver // 1000}.{driver % 1000 // 10}"
    if driver // 1000 < CUDA_12:
        return f"the driver is of CUDA {have}, and {package} needs one of CUDA {needed}: bring the driver up to date"
    return f"the driver is of CUDA {have}, and {package} needs one of CUDA {needed}; run: {command}, {_NEWER_DRIVER}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
