"""The sizes of a Qwen2.5-VL model."""

from dataclasses import dataclass

from glimpse_models.dims import Dims

_PATCH_VALUES = 3 * 2 * 14 * 14
_MERGED_PATCHES = 4


@dataclass(frozen=True)
class QwenDims(Dims):
    """Sizes of a model; the published ones share their vision encoder.

    Attributes:
        full_attention: blocks of the vision encoder that attend to the whole image.
    """

    taps: tuple[int, ...] = (31, 23, 15, 7)
    vision_hidden_size: int = 1280
    vision_depth: int = 32
    vision_heads: int = 16
    vision_intermediate_size: int = 3420
    full_attention: tuple[int, ...] = (7, 15, 23, 31)

    @property
    def qkv_bias(self) -> bool:
        """They have."""
        return True

    @property
    def vision_parameters(self) -> int:
        """Weights of the vision encoder and its merger."""
        width, inner = self.vision_hidden_size, self.vision_intermediate_size
        merged = _MERGED_PATCHES * width
        attention = 4 * width * width + 4 * width
        block = attention + 3 * width * inner + 2 * inner + width + 2 * width
        merger = width + merged * merged + merged + merged * self.hidden_size + self.hidden_size
        return _PATCH_VALUES * width + self.vision_depth * block + merger
