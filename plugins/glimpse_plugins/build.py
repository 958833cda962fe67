"""Builds the plugin's libraries on the machine that runs them, into the cache.

``python -m glimpse_plugins`` does so from the command line.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse_plugins.errors import PluginError
from glimpse_plugins.toolchain import (
    find_host_compiler,
    find_nvcc,
    gpu_architecture,
    nvcc_architectures,
    nvcc_version,
    output_of,
    tensorrt_version,
)
from glimpse_runtime.files.places import cache_folder

SOURCES = Path(__file__).parent / "csrc"
KERNEL, TENSORRT, ONNXRUNTIME = "compact.cu", "tensorrt_plugin.cpp", "ort_custom_op.cpp"
KERNEL_LIBRARY = "libglimpse_compact.so"
HEADERS = ("compact.h", "compact_block.h", "compact_kernel.cu")
_COMMON_FLAGS = ("-O3", "-std=c++17", "-shared")
_HOST_FLAGS = (*_COMMON_FLAGS, "-fPIC", "-fvisibility=hidden", "-DGLIMPSE_HOST")
_NVCC_FLAGS = (*_COMMON_FLAGS, "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xlinker=--exclude-libs=ALL")


@dataclass(frozen=True)
class Plugin:
    """A library that was built, or found in the cache.

    Attributes:
        library: the shared library; ``CompactLibrary`` opens it, and TensorRT where ``tensorrt`` is not None.
        architectures: the GPUs it holds code for, 87 for sm_87; none for the host.
        tensorrt: version of the TensorRT headers, None where the library holds the kernels alone.
    """

    library: Path
    architectures: tuple[int, ...]
    tensorrt: str | None = None


def source_hash() -> str:
    """Returns a hash of everything that the libraries are made of."""
    digest = hashlib.sha256()
    for name in sorted((*HEADERS, KERNEL, TENSORRT, ONNXRUNTIME)):
        digest.update(name.encode() + b"\0" + (SOURCES / name).read_bytes())
    return digest.hexdigest()


def build_plugin(
    architectures: Sequence[int] = (), tensorrt_include: Path | None = None, need_tensorrt: bool = False
) -> Plugin:
    """Builds the kernels and, where TensorRT's headers are, the TensorRT plugin, into one library, or finds it cached.

    Args:
        architectures: GPUs to build for, 87 for sm_87; none means this machine's GPU.
        tensorrt_include: the folder of NvInfer.h, else ``$TENSORRT_INCLUDE_DIR``, else the compiler's own folders.
        need_tensorrt: whether a library without the TensorRT plugin is an error.

    Raises:
        PluginError: no compiler, no headers, an unknown architecture, or the compiler failed.
    """
    nvcc = find_nvcc()
    chosen = tuple(sorted(set(architectures))) or (gpu_architecture(),)
    _check_architectures(nvcc, chosen)
    include = tensorrt_include or _folder_from_environment("TENSORRT_INCLUDE_DIR")
    tensorrt = tensorrt_version(include)
    if tensorrt is None and (need_tensorrt or include is not None):
        raise PluginError(
            f"no TensorRT headers (NvInferVersion.h) in {include or 'the folders of the C++ compiler'}. On a Jetson:"
            " sudo apt install libnvinfer-headers-dev; else take the folder include/ of TensorRT's source at"
            " https://github.com/NVIDIA/TensorRT, and name it in TENSORRT_INCLUDE_DIR."
        )
    flags = [*_NVCC_FLAGS, *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen)]
    where = [] if include is None else ["-isystem", str(include)]
    sources = [KERNEL] if tensorrt is None else [KERNEL, TENSORRT]
    facts = {"nvcc": nvcc_version(nvcc), "tensorrt": tensorrt}
    library = _cached(KERNEL_LIBRARY, [str(nvcc)], flags, where, sources, facts)
    return Plugin(library, chosen, tensorrt)


def build_host() -> Plugin:
    """Builds the kernels' logic for the host, or finds the library in the cache.

    Raises:
        PluginError: no compiler, or it failed.
    """
    command = [str(find_host_compiler())]
    return Plugin(_cached("libglimpse_compact_host.so", command, _HOST_FLAGS, [], [KERNEL], {}), ())


def build_onnxruntime(include: Path, architectures: Sequence[int] | None = ()) -> Plugin:
    """Builds the onnxruntime operator library, or finds it in the cache.

    Args:
        include: the folder of onnxruntime_c_api.h.
        architectures: as for ``build_plugin``; None builds the operator for the CPU.

    Raises:
        PluginError: no compiler, an unknown architecture, or the compiler failed.
    """
    where, sources = ["-isystem", str(include)], [KERNEL, ONNXRUNTIME]
    try:
        header = hashlib.sha256((include / "onnxruntime_c_api.h").read_bytes()).hexdigest()
    except OSError:
        raise PluginError(
            f"no onnxruntime_c_api.h in {include}. It is in the include/ folder of onnxruntime's releases at"
            " https://github.com/microsoft/onnxruntime; name that folder in ONNXRUNTIME_INCLUDE_DIR."
        ) from None
    if architectures is None:
        command = [str(find_host_compiler())]
        library = _cached("libglimpse_ort_host.so", command, _HOST_FLAGS, where, sources, {"onnxruntime": header})
        return Plugin(library, ())
    nvcc = find_nvcc()
    chosen = tuple(sorted(set(architectures))) or (gpu_architecture(),)
    _check_architectures(nvcc, chosen)
    flags = [*_NVCC_FLAGS, *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen)]
    facts = {"nvcc": nvcc_version(nvcc), "onnxruntime": header}
    return Plugin(_cached("libglimpse_ort.so", [str(nvcc)], flags, where, sources, facts), chosen)


def _check_architectures(nvcc: Path, chosen: Sequence[int]) -> None:
    known = nvcc_architectures(nvcc)
    unknown = [number for number in chosen if number not in known]
    if unknown:
        raise PluginError(
            f"{nvcc} (CUDA {nvcc_version(nvcc)}) cannot compile for sm_{unknown[0]}; it knows"
            f" {', '.join(map(str, known))}. Install a CUDA toolkit that knows this GPU, and set CUDA_HOME to it."
        )


def _folder_from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _cached(
    name: str,
    compiler: Sequence[str],
    flags: Sequence[str],
    includes: Sequence[str],
    sources: Sequence[str],
    facts: Mapping[str, Any],
) -> Path:
    """Compiles a library unless the cache has it; it appears there whole or not at all."""
    key = {"library": name, "sources": source_hash(), "flags": list(flags), **facts}
    plugins = cache_folder() / "plugins"
    folder = plugins / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    library = folder / name
    if library.exists():
        return library
    plugins.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=plugins))
    try:
        # A host compiler takes what follows -x for C++ whatever its name says; nvcc goes by the name.
        language = [] if "nvcc" in Path(compiler[0]).name else ["-x", "c++"]
        paths = [str(SOURCES / source) for source in sources]
        output_of([*compiler, *flags, *includes, *language, *paths, "-o", str(work / name)])
        (work / "build.json").write_text(json.dumps(key, indent=2, sort_keys=True) + "\n")
        _flush(work / name)
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:  # another process was faster; its library is as good
            if not library.exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return library


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
