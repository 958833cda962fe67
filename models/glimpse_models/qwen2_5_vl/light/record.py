"""What the manifest of a Qwen2.5-VL bundle says in its ``family`` record."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRules:
    """How an image becomes patches; the same meaning as in Qwen2VLImageProcessor's configuration."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float

    @property
    def token_pixels(self) -> int:
        """Pixels of one visual token."""
        return (self.patch_size * self.merge_size) ** 2


@dataclass(frozen=True)
class Record:
    """The fields of the ``family`` record.

    Attributes:
        window_size: side of an attention window of the vision encoder, in pixels.
        head_dim: size of the vision encoder's attention heads.
        rope_theta: base of its rotary embedding.
        images: how an image becomes patches.
    """

    window_size: int
    head_dim: int
    rope_theta: float
    images: ImageRules
