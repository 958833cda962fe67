"""Anchors: corners of an image that a bundle or a request may keep always."""

from collections.abc import Callable

ANCHORS: dict[str, Callable[[int, int], int]] = {
    "tl": lambda rows, columns: 0,
    "tr": lambda rows, columns: columns - 1,
    "bl": lambda rows, columns: (rows - 1) * columns,
    "br": lambda rows, columns: rows * columns - 1,
}
"""The visual token of a corner, for the rows and columns of the merged grid."""


def is_anchor(value: object) -> bool:
    """Returns whether something read from a file or given by a caller names a corner."""
    return isinstance(value, str) and value in ANCHORS
