"""Writes safetensors shards piece by piece, so that memory does not grow with the model."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.export.checkpoints.draw import Piece, pieces

SHARD_BYTES = 3_900_000_000
_ITEM = 2
Shapes = Mapping[str, tuple[int, ...]]


def write_shards(
    folder: Path, shapes: Shapes, values: Callable[[Piece], np.ndarray], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes bfloat16 shards and their index.

    Args:
        folder: where to.
        shapes: name and shape of every tensor, in order.
        values: returns the (rows, columns) of a piece; called from several threads.
        shard_bytes: no shard is larger, unless a single tensor is.
    """
    groups = list(_groups(shapes, shard_bytes))
    weight_map = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, group in enumerate(groups, start=1):
            file = f"model-{number:05}-of-{len(groups):05}.safetensors"
            _write_shard(folder / file, group, values, pool)
            weight_map |= dict.fromkeys(group, file)
    total = sum(map(_bytes, shapes.values()))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_shard(path: Path, group: Shapes, values: Callable[[Piece], np.ndarray], pool: ThreadPoolExecutor) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name, shape in group.items():
        starts[name], end = end, end + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        file.write(head)
        file.flush()

        def put(piece: Piece) -> None:
            data = memoryview(values(piece).astype(ml_dtypes.bfloat16).view(np.uint8)).cast("B")
            offset = len(head) + starts[piece.name] + piece.first * piece.columns * _ITEM
            while data:
                written = os.pwrite(file.fileno(), data, offset)
                data, offset = data[written:], offset + written

        for _ in pool.map(put, [piece for name, shape in group.items() for piece in pieces(name, shape)]):
            pass


def _groups(shapes: Shapes, shard_bytes: int) -> Iterator[Shapes]:
    group: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if group and size + _bytes(shape) > shard_bytes:
            yield group
            group, size = {}, 0
        group[name] = shape
        size += _bytes(shape)
    yield group


def _bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _ITEM
