"""The sizes of a LLaVA-1.5 model."""

from dataclasses import dataclass

from glimpse_models.dims import Dims

_CHANNELS = 3


@dataclass(frozen=True)
class LlavaDims(Dims):
    """Sizes of a model; the published ones share their vision tower, CLIP's ViT-L/14 at 336 pixels.

    Taps are blocks counted from 0; adapters' files count hidden states, which are one more.

    Attributes:
        patch_size: side of a patch in pixels.
        image_size: side of the square that the tower sees.
    """

    vocab_size: int = 32000
    tied: bool = False
    reduce_layer: int = 21
    taps: tuple[int, ...] = (22, 16, 10, 4)
    vision_hidden_size: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    vision_intermediate_size: int = 4096
    patch_size: int = 14
    image_size: int = 336

    @property
    def qkv_bias(self) -> bool:
        """They have none."""
        return False

    @property
    def vision_parameters(self) -> int:
        """Weights of the whole tower and the projector."""
        width, inner, norm = self.vision_hidden_size, self.vision_intermediate_size, 2 * self.vision_hidden_size
        tokens = (self.image_size // self.patch_size) ** 2 + 1
        embeddings = width + _CHANNELS * self.patch_size**2 * width + tokens * width
        block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * norm
        projector = width * self.hidden_size + self.hidden_size + self.hidden_size**2 + self.hidden_size
        return embeddings + self.vision_depth * block + 2 * norm + projector
