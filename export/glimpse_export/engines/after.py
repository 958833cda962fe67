"""After an export: the bundle's engines, where they can be built on this machine."""

from collections.abc import Callable
from pathlib import Path

from glimpse_export.engines.builder import build_engines
from glimpse_export.engines.options import BuildOptions
from glimpse_export.planning.boards import Board
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import current_gpu
from glimpse_runtime.engines.key import gpu_identity
from glimpse_runtime.engines.store import StoredEngine
from glimpse_runtime.errors import BackendError


def build_if_possible(
    bundle: Path, options: BuildOptions, board: Board | None, progress: Callable[[str], None]
) -> tuple[list[StoredEngine], str | None]:
    """Builds the engines of a new bundle, unless they have to be built elsewhere.

    Args:
        bundle: the bundle.
        options: how.
        board: what the bundle is for; None is this machine.
        progress: called with a line of text at the start of a long step.

    Returns:
        The engines, and why there are none.

    Raises:
        GlimpseError: they belong here and cannot be built.
    """
    reason = _elsewhere(options.target, board)
    if reason is not None:
        return [], f"{reason}; run on the device: glimpse-export --bundle {bundle.name} --target {options.target}"
    return build_engines(bundle, options, progress), None


def _elsewhere(target: str, board: Board | None) -> str | None:
    gpu = current_gpu()
    try:
        found = installed(target)
        gpu_identity(found, gpu)
    except BackendError as error:
        return f"no engines were built: {str(error).partition(';')[0]}"
    capability = None if gpu is None else ".".join(map(str, gpu.capability))
    if board is not None and board.capability not in (None, capability):
        return f"no engines were built: this machine is not the board ({gpu or 'no GPU'})"
    return None
