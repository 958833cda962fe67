"""What differs between the versions of TensorRT and TensorRT-RTX, in one table.

Everything else about them is taken to be the same. Importing this file imports neither.
"""

import importlib
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from glimpse_runtime.bundle.dialects import OPSET24, PLAIN
from glimpse_runtime.engines.wheel import repair_rtx_wheel
from glimpse_runtime.errors import BackendError

Version = tuple[int, ...]


@dataclass(frozen=True)
class Flavour:
    """TensorRT or TensorRT-RTX from one version up to the next one in the table.

    Attributes:
        name: the target's name on the command line.
        module: what Python imports.
        since: the first version these facts hold for.
        dialects: the dialects its parser imports, best first.
        typed_by_flag: a network has to be asked for strong typing; later versions have nothing else.
        resolution: what becomes of a node that names both a function of the file and a plugin of the registry.
            ``function``: always the function; ``registered``: the plugin if it is registered under the node's name,
            version and namespace; ``attribute``: the same, but only if the node has the attribute plugin_namespace.
        fused_attention: there is an Attention layer, which is refused where no kernel is found for it unless its node
            has the attribute TRT_decomposable.
        profiles: ``split`` has one for prefill and one for decode, which share the weights; ``wide`` has one for both,
            where every profile would have a copy of the weights.
        portable: engines are built without a GPU and for a range of them; otherwise on and for the one that is there.
        timing_cache: what was measured while an engine was built can be kept for the next one.
        streams: an engine can be written while it is built, without a copy of it in memory.
    """

    name: Literal["tensorrt", "tensorrt-rtx"]
    module: str
    since: Version
    dialects: tuple[str, ...]
    typed_by_flag: bool
    resolution: Literal["function", "registered", "attribute"]
    fused_attention: bool
    profiles: Literal["split", "wide"]
    portable: bool
    timing_cache: bool
    streams: bool


_10_3 = Flavour(
    "tensorrt",
    "tensorrt",
    (10, 3),
    dialects=(PLAIN,),
    typed_by_flag=True,
    resolution="function",
    fused_attention=False,
    profiles="split",
    portable=False,
    timing_cache=True,
    streams=False,
)
_10_7 = replace(_10_3, since=(10, 7), resolution="registered")
_10_13 = replace(_10_7, since=(10, 13), streams=True)
_10_15 = replace(_10_13, since=(10, 15), dialects=(OPSET24, PLAIN), resolution="attribute", fused_attention=True)
_11 = replace(_10_15, since=(11,), typed_by_flag=False)
_RTX = replace(
    _11,
    name="tensorrt-rtx",
    module="tensorrt_rtx",
    since=(1, 7),
    profiles="wide",
    portable=True,
    timing_cache=False,
)

FLAVOURS = (_10_3, _10_7, _10_13, _10_15, _11, _RTX)
FLAVOUR_NAMES = tuple(dict.fromkeys(flavour.name for flavour in FLAVOURS))

_INSTALL = {
    "tensorrt": "on a Jetson install python3-libnvinfer with apt and make the virtual environment with "
    "--system-site-packages; elsewhere run: pip install tensorrt",
    "tensorrt-rtx": 'run: pip install "glimpse-edge[rtx]"',
}


@dataclass(frozen=True)
class Installed:
    """What can be imported on this machine.

    Attributes:
        flavour: what is known about it.
        version: its version as it states it.
        module: the imported module.
    """

    flavour: Flavour
    version: str
    module: Any

    @property
    def title(self) -> str:
        """Name and version in words."""
        return f"{'TensorRT-RTX' if self.flavour.portable else 'TensorRT'} {self.version}"


def installed(name: str) -> Installed:
    """Imports TensorRT or TensorRT-RTX.

    Args:
        name: one of ``FLAVOUR_NAMES``.

    Raises:
        BackendError: it is not installed, cannot be loaded, or is too old.
    """
    module_name = _rows(name)[0].module
    try:
        if module_name == "tensorrt_rtx":
            repair_rtx_wheel()
        module = importlib.import_module(module_name)
        version = str(module.__version__)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise BackendError(f"{module_name} cannot be loaded: {error}; {_INSTALL[name]}") from None
        raise BackendError(f"the Python module {module_name} is not installed; {_INSTALL[name]}") from None
    except (ImportError, OSError, AttributeError) as error:
        raise BackendError(f"{module_name} cannot be loaded: {error}; {_INSTALL[name]}") from None
    return Installed(flavour_of(name, version), version, module)


def flavour_of(name: str, version: str) -> Flavour:
    """Returns what is known about a version; of a newer one than the table has, what its last row says.

    Raises:
        BackendError: it is older than the table.
    """
    rows = _rows(name)
    found = [row for row in rows if row.since <= version_numbers(version)]
    if not found:
        oldest = ".".join(map(str, rows[0].since))
        raise BackendError(f"{rows[0].module} {version} is too old, {oldest} is the first that works; {_INSTALL[name]}")
    return found[-1]


def version_numbers(version: str) -> Version:
    """Returns the numbers a version begins with: ``10.3.0.post1`` is (10, 3, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _rows(name: str) -> tuple[Flavour, ...]:
    rows = tuple(flavour for flavour in FLAVOURS if flavour.name == name)
    if not rows:
        raise BackendError(f"unknown kind of TensorRT {name!r}; known: {', '.join(FLAVOUR_NAMES)}")
    return rows
