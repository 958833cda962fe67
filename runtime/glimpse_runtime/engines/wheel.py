"""A fault of the TensorRT-RTX wheel, mended before the import.

At a plugin the parser opens ``libtensorrt_rtx.so``. The wheel has ``libtensorrt_rtx.so.1`` alone, and the process dies.
The parser looks beside itself first: loaded through a link in a folder that has the missing name as well, it finds it.
Both names lead to one file, so nothing is loaded twice.
"""

import ctypes
import hashlib
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from glimpse_runtime.errors import BackendError

_LIBRARIES = "tensorrt_rtx_libs"
_CORE = "libtensorrt_rtx.so.1"
_PARSER = "libtensorrt_onnxparser_rtx.so.1"
_MISSING = "libtensorrt_rtx.so"


def repair_rtx_wheel() -> None:
    """Makes ``libtensorrt_rtx.so`` findable; does nothing where there is no such wheel or it has the file.

    Raises:
        BackendError: ``tensorrt_rtx`` was imported before, which is too late for it.
    """
    folder = _wheel_folder()
    if folder is None or (folder / _MISSING).exists() or _is_repaired():
        return
    if _LIBRARIES in sys.modules:
        if _on_library_path():
            return
        raise BackendError(
            "tensorrt_rtx was imported before glimpse_runtime could make its plugins loadable; load glimpse_runtime's "
            f"engines first, or run once: ln -s {_CORE} {folder / _MISSING}"
        )
    from glimpse_runtime.files.places import cache_folder  # numpy, which the command line has no time for

    links = cache_folder() / "links" / _name_of(folder)
    links.mkdir(parents=True, exist_ok=True)
    for name, target in ((_MISSING, _CORE), (_CORE, _CORE), (_PARSER, _PARSER)):
        _link(links / name, folder / target)
    _loaded.append(ctypes.CDLL(str(links / _PARSER)))


_loaded: list[ctypes.CDLL] = []


def _is_repaired() -> bool:
    return bool(_loaded)


def _wheel_folder() -> Path | None:
    """Where the wheel's libraries lie; None on other systems, and where TensorRT-RTX comes without the wheel."""
    spec = find_spec(_LIBRARIES) if sys.platform == "linux" else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if (folder / _CORE).exists() and (folder / _PARSER).exists() else None


def _on_library_path() -> bool:
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return any((Path(folder) / _MISSING).exists() for folder in folders if folder)


def _name_of(folder: Path) -> str:
    """A name for the links to this installation: two environments may have different wheels."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:32]


def _link(link: Path, target: Path) -> None:
    """Makes a link in one step; another process may be making the same."""
    if link.is_symlink() and link.readlink() == target:
        return
    with tempfile.TemporaryDirectory(dir=link.parent) as folder:
        fresh = Path(folder) / link.name
        fresh.symlink_to(target)
        fresh.replace(link)
