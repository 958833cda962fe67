"""What the vision encoder needs in between, in proportion to a measurement of Qwen2.5-VL-3B on a CPU."""

from glimpse_models.qwen2_5_vl.heavy.architecture import QwenVision

# Float32 numbers per patch and unit of the width at the widest moment: 240 MiB at 4,096 patches, and 1,000 MiB at
# 14,336, where gaps between the engine's chunks add a share.
_WIDTHS = 14


def working_values(vision: QwenVision, patches: int) -> int:
    """Returns how many float32 numbers the encoder holds at its widest moment."""
    return _WIDTHS * patches * vision.hidden_size
