"""Writes weights piece by piece, so that memory does not grow with the model."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.export.checkpoints.draw import Piece, pieces
from benchmarks.export.checkpoints.formats import Form, Shapes


def write_weights(
    folder: Path,
    form: Form,
    shapes: Shapes,
    values: Callable[[Piece], np.ndarray],
    shard_bytes: int | None = None,
    always_index: bool = True,
) -> None:
    """Writes one file or several with their index.

    Args:
        folder: where to.
        form: how they are stored.
        shapes: name and shape of every tensor, in order.
        values: returns the (rows, columns) of a piece; called from several threads.
        shard_bytes: instead of the form's.
        always_index: a single file is a shard with an index, too.
    """
    groups = list(_groups(form, shapes, shard_bytes or form.shard_bytes))
    weight_map = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, group in enumerate(groups, start=1):
            several = always_index or len(groups) > 1
            file = form.shard.format(number=number, count=len(groups)) if several else form.single
            _write_file(folder / file, form, group, values, pool)
            weight_map |= dict.fromkeys(group, file)
    if several:
        total = sum(map(form.bytes, shapes.values()))
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / form.index).write_text(json.dumps(index, indent=2))


def _write_file(
    path: Path, form: Form, group: Shapes, values: Callable[[Piece], np.ndarray], pool: ThreadPoolExecutor
) -> None:
    starts = form.begin(path, group, form.dtype)
    with path.open("r+b") as file:

        def put(piece: Piece) -> None:
            data = memoryview(values(piece).astype(form.dtype).view(np.uint8)).cast("B")
            offset = starts[piece.name] + piece.first * piece.columns * form.dtype.itemsize
            while data:
                written = os.pwrite(file.fileno(), data, offset)
                data, offset = data[written:], offset + written

        for _ in pool.map(put, [piece for name, shape in group.items() for piece in pieces(name, shape)]):
            pass


def _groups(form: Form, shapes: Shapes, shard_bytes: int) -> Iterator[Shapes]:
    group: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if group and size + form.bytes(shape) > shard_bytes:
            yield group
            group, size = {}, 0
        group[name] = shape
        size += form.bytes(shape)
    yield group
