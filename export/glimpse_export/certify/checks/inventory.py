"""Every tensor that answers depend on must be used by its graph, and the original must know every tensor there is."""

import re

from glimpse_export.certify.checks.head import EMBEDDING, NORM
from glimpse_export.certify.measures.record import Recorder, Stop
from glimpse_export.certify.reference.base import Reference
from glimpse_export.certify.written.stored import StoredWeights
from glimpse_export.planning.plan import Plan

MISSING, UNKNOWN = "missing_weight", "unknown_weight"
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks)\.(\d+)\.")
_HEAD = "lm_head.weight"
# What families call the decoder's tensors; all others are the vision encoder's.
_DECODER = ("model.layers.", EMBEDDING, NORM, _HEAD)
# Frequencies that old checkpoints saved although they follow from the configuration.
_COMPUTED = ".inv_freq"


def check_inventory(checked: Plan, base: Reference, stored: dict[str, StoredWeights], recorder: Recorder) -> None:
    """Compares the names of the checkpoint, of the original and of the graphs' weights.

    Raises:
        Stop: a tensor is missing, so that its layer cannot be computed.
    """
    tied = checked.architecture.text.tied
    needed = base.names | (set() if tied else {_HEAD})
    harmless = {_HEAD} if tied else set()
    for name in sorted(set(checked.checkpoint.shapes) - needed - harmless):
        if _COMPUTED not in name:
            recorder.at_most("checkpoint", None, f"{UNKNOWN} {name}", 1, 0)
    missing = 0
    for name in sorted(needed, key=_order):
        stage = _stage(name, checked.architecture.lower_layers)
        if name == EMBEDDING and not tied:
            continue
        if name not in stored[stage].names:
            recorder.at_most(stage, _layer(name), f"{MISSING} {name}", 1, 0)
            missing += 1
    recorder.at_most("checkpoint", None, MISSING, missing, 0)
    if missing:
        raise Stop


def _stage(name: str, lower_layers: int) -> str:
    layer = _layer(name)
    if not name.startswith(_DECODER):
        return "vision"
    return "lower" if layer is not None and layer < lower_layers else "upper"


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _order(name: str) -> tuple[bool, int, str]:
    layer = _layer(name)
    return name.startswith(_DECODER), -1 if layer is None else layer, name
