"""What the vision tower needs in between."""

from glimpse_models.llava_1_5.heavy.architecture import LlavaVision

# States of the tower's width that live at once: residual, normed, queries, keys, values, what attention gives, and the
# two halves of an engine's copies.
_WIDTHS = 8


def working_values(vision: LlavaVision, patches: int) -> int:
    """Returns how many float32 numbers the tower holds at its widest moment.

    That is attention of all rows to all rows, written out for every head as the dialects for TensorRT do in float32,
    or the MLP.
    """
    rows = patches + 1
    states = _WIDTHS * rows * vision.hidden_size
    return states + max(2 * vision.heads * rows * rows, 2 * rows * vision.intermediate_size)
