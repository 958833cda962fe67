"""The vision tower and projector of LLaVA-1.5, as their configuration describes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LlavaVision:
    """CLIP's vision tower, up to the last block that something is read of, and the projector.

    Blocks are counted from 0; block -1 stands for the state before the first. ``hidden_states[i]`` of transformers is
    the state behind block i - 1.

    Attributes:
        depth: blocks that run.
        tower_depth: blocks of the tower.
        projected: the block behind which the projector reads.
        projector_activation: between the projector's two layers.
        image_size: side of the square that it sees, in pixels.
    """

    depth: int
    tower_depth: int
    projected: int
    hidden_size: int
    heads: int
    intermediate_size: int
    out_size: int
    channels: int
    patch_size: int
    image_size: int
    activation: str
    projector_activation: str
    norm_eps: float
    merge_size: int = 1

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads

    @property
    def side(self) -> int:
        """Rows and columns of patches."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.side**2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.patch_size**2
