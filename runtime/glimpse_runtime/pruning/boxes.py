"""Kept regions as boxes in the pixels of the image that was given."""

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.inputs.grid import Window

Box = tuple[int, int, int, int]


def kept_boxes(keep: BoolArray, size: tuple[int, int], window: Window | None = None) -> tuple[Box, ...]:
    """Returns one box per group of kept cells that touch at their sides.

    Args:
        keep: (rows, columns) keep mask on the merged grid.
        size: (width, height) of the image in pixels.
        window: the part of the image that the grid covers; None is all of it.

    Returns:
        Boxes (left, top, right, bottom) in pixels, right and bottom excluded, in reading order of their first cell;
        none for cells that lie outside the image, in its padding.
    """
    rows, columns = keep.shape
    start_x, start_y, end_x, end_y = window or (0, 0, *size)
    width, height = end_x - start_x, end_y - start_y
    left_over = {(int(row), int(column)) for row, column in zip(*keep.nonzero(), strict=True)}
    boxes = []
    for start in sorted(left_over):
        if start not in left_over:
            continue
        left_over.discard(start)
        group, front = [start], [start]
        while front:
            row, column = front.pop()
            for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if cell in left_over:
                    left_over.discard(cell)
                    group.append(cell)
                    front.append(cell)
        top, bottom = min(row for row, _ in group), max(row for row, _ in group) + 1
        left, right = min(column for _, column in group), max(column for _, column in group) + 1
        box = (
            start_x + left * width // columns,
            start_y + top * height // rows,
            start_x + right * width // columns,
            start_y + bottom * height // rows,
        )
        inside = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
        if inside == box or (inside[0] < inside[2] and inside[1] < inside[3]):
            boxes.append(inside)
    return tuple(boxes)
