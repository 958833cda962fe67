"""Kept regions as boxes in the pixels of the image that was given."""

from glimpse_runtime.arrays import BoolArray

Box = tuple[int, int, int, int]


def kept_boxes(keep: BoolArray, size: tuple[int, int]) -> tuple[Box, ...]:
    """Returns one box per group of kept cells that touch at their sides.

    Args:
        keep: (rows, columns) keep mask on the merged grid.
        size: (width, height) of the image in pixels.

    Returns:
        Boxes (left, top, right, bottom) in pixels, right and bottom excluded, in reading order of their first cell.
    """
    rows, columns = keep.shape
    width, height = size
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
        boxes.append((left * width // columns, top * height // rows, right * width // columns, bottom * height // rows))
    return tuple(boxes)
