"""The patches of one image, and the grid that they and its visual tokens lie on."""

from dataclasses import dataclass

from glimpse_runtime.arrays import FloatArray

Window = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of an image, right and bottom excluded; it may reach beyond the image."""


@dataclass(frozen=True)
class Grid:
    """The patches of one image: ``rows`` x ``columns``, both multiples of ``merge``."""

    rows: int
    columns: int
    merge: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    @property
    def merged(self) -> tuple[int, int]:
        """Rows and columns of the merged grid: one cell is one visual token."""
        return self.rows // self.merge, self.columns // self.merge

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens."""
        return self.patches // self.merge**2


@dataclass(frozen=True)
class Patches:
    """One preprocessed image.

    Attributes:
        pixel_values: (patches, values) float32; a row is one patch, in the order and layout of the model's family.
        grid: the patch grid.
    """

    pixel_values: FloatArray
    grid: Grid
