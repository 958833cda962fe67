"""What the manifest of a LLaVA-1.5 bundle says in its ``family`` record."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRules:
    """How an image becomes patches: LLaVA's padding, then what CLIPImageProcessor does.

    Attributes:
        patch_size: side of a patch in pixels.
        image_size: side of the square that the model sees, in pixels.
        resize_to: the (height, width) that an image is resized to before the square is cut out of its middle, or one
            number: then its shorter side becomes so long, and it keeps its shape.
        pad: whether an image is first put into the middle of a square, on the colour of the mean.
        mean: of every channel, in 0..1.
        std: of every channel.
        rescale_factor: what eight-bit levels are multiplied by.
    """

    patch_size: int
    image_size: int
    resize_to: tuple[int, ...]
    pad: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float

    @property
    def side(self) -> int:
        """Rows and columns of patches; pixels behind the last whole patch are not seen."""
        return self.image_size // self.patch_size

    @property
    def pad_colour(self) -> tuple[int, ...]:
        """What an image is padded with, as eight-bit levels."""
        return tuple(int(255 * level) for level in self.mean)


@dataclass(frozen=True)
class Record:
    """The fields of the ``family`` record.

    Attributes:
        images: how an image becomes patches.
    """

    images: ImageRules
