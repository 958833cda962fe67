"""Where a bundle is going to run, and what follows from that for its export."""

from dataclasses import dataclass

from glimpse_export.planning.boards import Board
from glimpse_runtime.engines.flavours import FLAVOURS, installed
from glimpse_runtime.errors import BackendError

DEFAULT_TARGET = "cpu"


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        precision: whose recommended precision it gets, in ``glimpse_models.facts.TARGETS``.
        builds_engines: whether its bundles are built into engines on the machine that runs them.
        widens_weights: whether what runs there holds weights of fp16 and bf16 as float32.
    """

    precision: str
    builds_engines: bool = False
    widens_weights: bool = False


TARGETS = {
    DEFAULT_TARGET: Target("cpu", widens_weights=True),
    "ort-cuda": Target("ort-cuda"),
    "tensorrt": Target("tensorrt", builds_engines=True),
    "tensorrt-rtx": Target("tensorrt", builds_engines=True),
}

_ONNXRUNTIME = ("ort",)


def default_dialects(target: str, board: Board | None) -> tuple[str, ...]:
    """Returns the dialects a target needs: the board's, else what the TensorRT of this machine imports best.

    Without TensorRT here it is what its newest version imports best.
    """
    if not TARGETS[target].builds_engines:
        return _ONNXRUNTIME
    if board is not None:
        return board.dialects
    try:
        flavour = installed(target).flavour
    except BackendError:
        flavour = [row for row in FLAVOURS if row.name == target][-1]
    return flavour.dialects[:1]
