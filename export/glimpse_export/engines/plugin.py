"""The compaction plugin for TensorRT, compiled on this machine when it is not there yet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glimpse_export.errors import BuildError
from glimpse_runtime.engines.flavours import Installed
from glimpse_runtime.engines.gpu import Gpu

# What TensorRT-RTX builds engines for where there is no GPU to ask, as far as the compiler knows it.
_DESKTOP_GPUS = (80, 86, 89, 120)


@dataclass(frozen=True)
class Plugin:
    """A compiled plugin.

    Attributes:
        library: its shared library.
        sources: hash of what it was compiled from.
    """

    library: Path
    sources: str


def find_plugin(found: Installed, gpu: Gpu | None, progress: Callable[[str], None]) -> Plugin:
    """Compiles the plugin, or takes it from the cache.

    Args:
        found: the TensorRT it is for.
        gpu: the GPU it is for, None where there is none.
        progress: called with a line of text before it is compiled.

    Raises:
        BuildError: it cannot be compiled here; with the way to do without.
    """
    from glimpse_plugins.build import build_plugin, source_hash
    from glimpse_plugins.errors import PluginError
    from glimpse_plugins.toolchain import find_nvcc, nvcc_architectures

    progress(f"compaction plugin for {found.title}: compiling, unless it is in the cache")
    try:
        architectures: tuple[int, ...] = ()
        if gpu is None:
            known = nvcc_architectures(find_nvcc())
            architectures = tuple(number for number in _DESKTOP_GPUS if number in known)
        return Plugin(build_plugin(architectures, need_tensorrt=True).library, source_hash())
    except PluginError as error:
        raise BuildError(
            f"the compaction plugin cannot be compiled: {error}\n"
            "Without it the function in the graph takes its place: more layers, the same result."
        ) from None
