"""The vision encoder of Qwen2.5-VL, as its configuration describes it."""

from dataclasses import dataclass

ROPE_THETA = 10000.0
NORM_EPS = 1e-6


@dataclass(frozen=True)
class QwenVision:
    """The vision encoder."""

    depth: int
    hidden_size: int
    heads: int
    intermediate_size: int
    out_size: int
    channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_attention: tuple[int, ...]
    activation: str

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.merge_size**2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_side(self) -> int:
        """Rows and columns of an attention window in visual tokens."""
        return self.window_size // self.merge_size // self.patch_size

    @property
    def window_tokens(self) -> int:
        """Visual tokens in one attention window."""
        return self.window_side**2

    @property
    def has_windows(self) -> bool:
        """Whether any block attends within windows."""
        return len(set(self.full_attention)) < self.depth
