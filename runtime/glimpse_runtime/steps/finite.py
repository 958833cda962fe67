"""Infinities and NaN become an error at the stage that made them, never an answer."""

from collections.abc import Mapping

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.errors import BackendError


def require_finite(stage: str, precision: Mapping[str, str], *arrays: Array) -> None:
    """Checks what a stage has computed.

    Args:
        stage: its name.
        precision: the bundle's precisions by stage.
        arrays: its float outputs. Maximum and minimum are enough, since NaN passes through both.

    Raises:
        BackendError: some value is infinite or not a number.
    """
    if all(np.isfinite(array.max()) and np.isfinite(array.min()) for array in arrays if array.size):
        return
    kind = precision.get(stage, "unknown")
    raise BackendError(
        f"stage {stage} gave values that are not finite: its precision {kind} does not hold this model's range; "
        f"export again with --{stage}-precision bf16 or fp32"
        if kind == "fp16"
        else f"stage {stage} gave values that are not finite; check the bundle with glimpse-inspect --verify, and the "
        "checkpoint it was made from"
    )
