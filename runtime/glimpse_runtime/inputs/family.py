"""What a model family brings to the runtime, found by the architecture that a bundle's manifest states."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from glimpse_models.families import light
from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from glimpse_runtime.inputs.grid import Grid, Patches, Window


class Family(Protocol):
    """The light half of a model family, for one bundle.

    A family's module ``light.family`` has a function ``read(manifest, where)`` that checks the manifest's ``family``
    record and returns this.

    Attributes:
        images_per_prompt: how many images a prompt may show, None for any number.
        encodes_parts: whether the vision encoder can encode some cells of an image alone.
    """

    images_per_prompt: int | None
    encodes_parts: bool

    def limited(self, max_pixels: int) -> "Family":
        """Returns the same with images of at most so many pixels; more than the bundle's limit changes nothing.

        Raises:
            InputError: the model cannot see so few.
        """
        ...

    def at_most(self, visual_tokens: int) -> "Family":
        """Returns the same with images of at most so many visual tokens each, made smaller by the family's own rules.

        More than images have changes nothing.

        Args:
            visual_tokens: at least 1.

        Raises:
            InputError: the model cannot see so few.
        """
        ...

    def grid(self, image: Image.Image) -> Grid:
        """Returns the patch grid that ``patches`` will give, without touching the pixels.

        Raises:
            ImageError: the model cannot see an image of this size.
        """
        ...

    def seen(self, size: tuple[int, int]) -> Window:
        """Returns the part of an image that the grid covers, in the image's own pixels.

        Args:
            size: (width, height) of the image.
        """
        ...

    def patches(self, image: Image.Image) -> Patches:
        """Turns one RGB image into patches, equal to the original's image processor."""
        ...

    def blank(self, visual_tokens: int) -> Patches:
        """Returns an image without content, to warm up with.

        Args:
            visual_tokens: how many it has at most, where the model sees images of several sizes.
        """
        ...

    def vision_inputs(self, grid: Grid, cells: IntArray | None = None) -> dict[str, Array]:
        """Returns the vision graph's inputs beside ``pixel_values``.

        Args:
            grid: of the image.
            cells: (n,) ascending places on the merged grid of what is encoded, one cell being one visual token; None
                is all of it. The pixels are then those of ``Patches.rows(cells)``.

        Raises:
            InputError: there are cells, and the family does not encode parts (``encodes_parts``).
        """
        ...

    def windows(self, grid: Grid) -> IntArray:
        """Returns the (visual tokens,) number of the attention window that each cell of a grid lies in.

        A window is what must be encoded together; an encoder without windows has one.
        """
        ...

    def score_inputs(self, grid: Grid, cells: IntArray) -> dict[str, Array]:
        """Returns the scorer's inputs that only this family has.

        Args:
            grid: of the image.
            cells: (tokens,) ascending places of the visual tokens that entered, row-major on the merged grid.
        """
        ...

    def positions(self, ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
        """Returns the (axes, tokens) rope positions of a prompt.

        Raises:
            PromptError: image tokens and images do not match.
        """
        ...


def open_family(manifest: Manifest) -> Family:
    """Returns the family of a bundle, whose manifest was checked when it was opened.

    Raises:
        BundleFormatError: its family record makes no sense.
    """
    module = light(manifest.model.architecture)
    assert module is not None, "an unknown architecture is refused when the bundle is opened"
    family: Family = module.read(manifest, MANIFEST_NAME)
    return family
