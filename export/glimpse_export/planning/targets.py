"""Where a bundle is going to run, and what follows from that for its export."""

from glimpse_export.planning.boards import Board
from glimpse_runtime.bundle.dialects import ORT
from glimpse_runtime.devices import DEFAULT_DEVICE, DEVICES
from glimpse_runtime.engines.flavours import FLAVOURS, installed
from glimpse_runtime.errors import BackendError

TARGETS = {device.target: device for device in DEVICES.values()}
DEFAULT_TARGET = DEVICES[DEFAULT_DEVICE].target


def default_dialects(target: str, board: Board | None) -> tuple[str, ...]:
    """Returns the dialects a target needs: the board's, else what the TensorRT of this machine imports best.

    Without TensorRT here it is what its newest version imports best.
    """
    if not TARGETS[target].builds_engines:
        return (ORT,)
    if board is not None:
        return board.dialects
    try:
        flavour = installed(target).flavour
    except BackendError:
        flavour = [row for row in FLAVOURS if row.name == target][-1]
    return flavour.dialects[:1]
