"""What the machine has to build the plugin with: compilers, headers, and the GPU to build for."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from glimpse_plugins.errors import PluginError

# Orin, Ada, Hopper, data-center Blackwell, Thor, Blackwell RTX.
TARGETS = (87, 89, 90, 100, 110, 120)
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute

# All kernels for all GPUs take about a minute on two cores.
_SECONDS = 1800


def find_nvcc() -> Path:
    """Returns the CUDA compiler of ``$CUDA_HOME``, else of ``$PATH``, else of the toolkit's usual place.

    Raises:
        PluginError: there is none.
    """
    home = os.environ.get("CUDA_HOME")
    places = [*([f"{home}/bin"] if home else []), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    for place in places:
        found = shutil.which("nvcc", path=place)
        if found:
            return Path(found)
    raise PluginError(
        "no CUDA compiler: nvcc is neither in $CUDA_HOME/bin nor on the PATH nor in /usr/local/cuda/bin. Install the"
        " CUDA toolkit (on a Jetson: sudo apt install nvidia-jetpack), or set CUDA_HOME to where it is."
    )


def find_host_compiler() -> Path:
    """Returns the C++ compiler ``$CXX``, else c++, g++ or clang++.

    Raises:
        PluginError: there is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return Path(found)
    raise PluginError("no C++ compiler: install one (sudo apt install g++), or set CXX to the path of one.")


def nvcc_version(nvcc: Path) -> str:
    """Returns for example ``13.0.88``."""
    found = re.search(r"\bV(\d+(?:\.\d+)+)", output_of([str(nvcc), "--version"]))
    if found is None:
        raise PluginError(f"{nvcc} --version does not tell a version; set CUDA_HOME to a working CUDA toolkit.")
    return found[1]


def nvcc_architectures(nvcc: Path) -> list[int]:
    """Returns the architectures that a CUDA compiler knows: 87 stands for sm_87."""
    return sorted({int(number) for number in re.findall(r"compute_(\d+)\b", output_of([str(nvcc), "--list-gpu-arch"]))})


def gpu_architecture() -> int:
    """Returns the architecture of the first GPU that this process may use.

    Raises:
        PluginError: there is no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise PluginError(
            "no NVIDIA driver (libcuda.so.1), so there is no GPU to build for; name the architectures instead."
        ) from None
    major, minor, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    for value, attribute in ((major, _COMPUTE_CAPABILITY_MAJOR), (minor, _COMPUTE_CAPABILITY_MINOR)):
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    if status:
        raise PluginError(f"the NVIDIA driver finds no GPU (CUDA driver error {status}); is CUDA_VISIBLE_DEVICES set?")
    return 10 * major.value + minor.value


def tensorrt_version(include: Path | None) -> str | None:
    """Returns the version of TensorRT's C++ headers, for example ``10.3.0``; None where there are none.

    Args:
        include: the folder of NvInfer.h; None leaves it to the compiler's own folders, where packages put it.
    """
    source = "#include <NvInferVersion.h>\nglimpse NV_TENSORRT_MAJOR NV_TENSORRT_MINOR NV_TENSORRT_PATCH\n"
    flags = [] if include is None else [f"-I{include}"]
    command = [str(find_host_compiler()), "-E", "-P", "-x", "c++", *flags, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=_SECONDS, check=False)
    found = re.search(r"^glimpse (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    return ".".join(found.groups()) if found and done.returncode == 0 else None


def output_of(command: Sequence[str]) -> str:
    """Runs a program and returns what it prints.

    Raises:
        PluginError: it cannot be run, or it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PluginError(f"{command[0]} has not ended after {_SECONDS} s; see whether it runs by itself.") from None
    except OSError as error:
        raise PluginError(f"{command[0]} cannot be run: {error.strerror}.") from None
    if done.returncode:
        raise PluginError(f"{' '.join(command)} failed:\n{first_errors(done.stdout + done.stderr)}")
    return done.stdout


def first_errors(text: str, most: int = 6) -> str:
    """Returns the first lines of a compiler's output that speak of errors, else its first lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal|undefined reference)\b", line, re.IGNORECASE)]
    return "\n".join((errors or lines)[:most])
