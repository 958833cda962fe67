"""The patches of one image, and the grid that they and its visual tokens lie on."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray

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

    def patches_of(self, cells: IntArray) -> IntArray:
        """Returns the numbers of the patches of some cells of the merged grid, in the order of ``Patches``.

        Args:
            cells: (n,) places of the cells, row-major on the merged grid.

        Returns:
            (n * merge * merge,) int64.
        """
        unit = self.merge**2
        numbers: IntArray = (np.asarray(cells, np.int64)[:, None] * unit + np.arange(unit)).reshape(-1)
        return numbers


@dataclass(frozen=True)
class Patches:
    """One preprocessed image.

    Attributes:
        pixel_values: (patches, values) float32; a row is one patch, its layout is that of the model's family. The
            merge * merge patches of one cell of the merged grid are neighbours, and cells lie row-major.
        grid: the patch grid.
    """

    pixel_values: FloatArray
    grid: Grid

    def rows(self, cells: IntArray | None) -> FloatArray:
        """Returns the pixel rows of some cells, (n * merge * merge, values) float32; None is all of the grid.

        Args:
            cells: (n,) ascending places on the merged grid; see ``Grid.patches_of``.
        """
        return self.pixel_values if cells is None else self.pixel_values[self.grid.patches_of(cells)]
