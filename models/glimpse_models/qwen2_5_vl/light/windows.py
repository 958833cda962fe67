"""The vision encoder's attention windows."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.inputs.grid import Grid


@dataclass(frozen=True)
class Windows:
    """Which items share an attention window; padding makes all windows equally long.

    Attributes:
        gather: (windows * slots,) int64: the item in each slot, 0 where the slot is padding.
        scatter: (items,) int64: the slot of each item.
        keys: (windows, slots) int32: 1 for an item, 0 for padding.
    """

    gather: IntArray
    scatter: IntArray
    keys: Array

    @property
    def order(self) -> IntArray:
        """(items,) the items in window order."""
        order: IntArray = self.gather[self.keys.reshape(-1) > 0]
        return order

    @property
    def lengths(self) -> IntArray:
        """(windows,) items per window."""
        lengths: IntArray = self.keys.sum(axis=1).astype(np.int64)
        return lengths

    def inputs(self) -> dict[str, Array]:
        """Returns the arrays by the names of the graph inputs that take them."""
        return {"window_gather": self.gather, "window_scatter": self.scatter, "window_keys": self.keys}


def token_windows(grid: Grid, window_size: int, patch_size: int, cells: IntArray | None = None) -> Windows:
    """Returns the vision encoder's windows over the merged grid, items being visual tokens in row-major order.

    Args:
        grid: the patch grid.
        window_size: side of a window in pixels.
        patch_size: side of a patch in pixels.
        cells: (tokens,) ascending places of the tokens that there are; None is all of the grid. The others are
            padding, and windows without a token are left out.
    """
    side = window_size // grid.merge // patch_size
    rows, columns = grid.merged
    down, across = -(-rows // side), -(-columns // side)
    present = np.arange(rows * columns) if cells is None else cells
    numbers = np.full(rows * columns, -1, np.int64)
    numbers[present] = np.arange(len(present))
    padded = np.full((down * side, across * side), -1, np.int64)
    padded[:rows, :columns] = numbers.reshape(rows, columns)
    slots = padded.reshape(down, side, across, side).transpose(0, 2, 1, 3).reshape(down * across, side * side)
    return _windows(slots[(slots >= 0).any(axis=1)])


def patch_windows(grid: Grid, window_size: int, patch_size: int, cells: IntArray | None = None) -> Windows:
    """Returns the same windows with patches for items: the patches of a merge unit are neighbours."""
    tokens = token_windows(grid, window_size, patch_size, cells)
    slots = np.where(tokens.keys > 0, tokens.gather.reshape(tokens.keys.shape), -1)
    unit = grid.merge**2
    patches = slots[:, :, None] * unit + np.arange(unit)
    return _windows(np.where(slots[:, :, None] >= 0, patches, -1).reshape(len(slots), -1))


def _windows(slots: IntArray) -> Windows:
    valid = slots >= 0
    gather = np.where(valid, slots, 0).reshape(-1)
    filled = np.flatnonzero(valid.reshape(-1))
    scatter = np.empty(len(filled), np.int64)
    scatter[gather[filled]] = filled
    return Windows(gather, scatter, valid.astype(np.int32))
