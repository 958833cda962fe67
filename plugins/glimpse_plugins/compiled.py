"""The compaction kernel for one GPU: compiled by NVRTC on first use, then read from the cache."""

import hashlib
import json
import logging
import time
from pathlib import Path

from glimpse_plugins.build import SOURCES
from glimpse_plugins.errors import PluginError
from glimpse_plugins.library import require_own
from glimpse_plugins.nvrtc import find_nvrtc
from glimpse_runtime.files.atomic import open_atomic, write_text
from glimpse_runtime.files.places import cache_folder

log = logging.getLogger("glimpse")

KERNEL = "glimpse_compact_kernel"
_SOURCE, _HEADERS = "compact_kernel.cu", ("compact.h", "compact_block.h")
# NVRTC has no C headers of its own.
_STDINT = """
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long long uint64_t; typedef unsigned long long uintptr_t;
"""


def kernel_image(capability: tuple[int, int], cuda_major: int) -> bytes:
    """Returns the code of the kernel for a GPU, compiled if the cache has none.

    Args:
        capability: the GPU's compute capability, (8, 7) for the Jetson Orin.
        cuda_major: version of CUDA that the driver is of.

    Raises:
        PluginError: it has to be compiled and there is no NVRTC that can.
    """
    architecture = capability[0] * 10 + capability[1]
    source = (SOURCES / _SOURCE).read_text(encoding="utf-8")
    headers = {name: (SOURCES / name).read_text(encoding="utf-8") for name in _HEADERS}
    headers["stdint.h"] = _STDINT
    key = {"source": source, "headers": headers, "architecture": architecture, "cuda": cuda_major}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / "kernels" / f"{name}.cubin"
    cached = _read(path)
    if cached is not None:
        return cached
    compiler, start = find_nvrtc(cuda_major), time.perf_counter()
    image = compiler.compile(_SOURCE, source, headers, architecture)
    spent = time.perf_counter() - start
    log.info("compaction kernel for sm_%d compiled in %.1f s by NVRTC %s", architecture, spent, compiler.version)
    _write(path, image, {"architecture": architecture, "nvrtc": compiler.version})
    return image


def _read(path: Path) -> bytes | None:
    """Returns an image whose record beside it agrees, None where there is none."""
    try:
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        image = path.read_bytes()
        require_own(path)
        if record["sha256"] == hashlib.sha256(image).hexdigest():
            return image
        log.warning("%s was altered; it is compiled again", path)
    except OSError:
        pass
    except (PluginError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is not used: %s", path, error)
    return None


def _write(path: Path, image: bytes, facts: dict[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(path) as file:
            file.write(image)
        write_text(_record(path), json.dumps({**facts, "sha256": hashlib.sha256(image).hexdigest()}) + "\n")
    except OSError as error:
        log.warning("the compaction kernel cannot be kept for the next start: %s", error)


def _record(path: Path) -> Path:
    return path.with_suffix(".json")
