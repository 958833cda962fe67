"""Files of weights whose values are put in later: safetensors, and the pickles that ``torch.save`` writes."""

import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

Shapes = Mapping[str, tuple[int, ...]]
_LOCAL_HEADER = 30
_NAME_AND_EXTRA = 26


@dataclass(frozen=True)
class Form:
    """How a checkpoint's weights are stored.

    Attributes:
        single: name of the file where there is one.
        shard: name of one of several, with fields ``number`` and ``count``; the index has the name of the single one.
        dtype: of the values.
        shard_bytes: no shard is larger, unless a single tensor is.
        begin: writes a file without its values, and returns where each tensor's start.
    """

    single: str
    shard: str
    dtype: np.dtype
    shard_bytes: int
    begin: Callable[[Path, Shapes, np.dtype], dict[str, int]]

    @property
    def index(self) -> str:
        """Name of the index of several files."""
        return f"{self.single}.index.json"

    def bytes(self, shape: tuple[int, ...]) -> int:
        """Returns the size of a tensor."""
        return math.prod(shape) * self.dtype.itemsize


def _begin_safetensors(path: Path, shapes: Shapes, dtype: np.dtype) -> dict[str, int]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name, shape in shapes.items():
        starts[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    path.write_bytes(head)
    return {name: len(head) + start for name, start in starts.items()}


def _begin_pickle(path: Path, shapes: Shapes, dtype: np.dtype) -> dict[str, int]:
    """What is saved is never touched, so it takes no memory; ``skip_data`` leaves holes for it."""
    kind = getattr(torch, dtype.name)
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(shape, dtype=kind) for name, shape in shapes.items()}, path)
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {info.filename.partition("/")[2]: info.header_offset for info in archive.infolist()}
        starts = {}
        for number, name in enumerate(shapes):
            header = records[f"data/{number}"]
            file.seek(header + _NAME_AND_EXTRA)
            starts[name] = header + _LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4)))
    return starts


_SAFETENSORS = ("model.safetensors", "model-{number:05}-of-{count:05}.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model-{number:05}-of-{count:05}.bin")
BFLOAT16_SAFETENSORS = Form(*_SAFETENSORS, np.dtype(ml_dtypes.bfloat16), 3_900_000_000, _begin_safetensors)
FLOAT16_PICKLES = Form(*_PICKLES, np.dtype(np.float16), 9_980_000_000, _begin_pickle)
FLOAT32_PICKLES = Form(*_PICKLES, np.dtype(np.float32), 9_980_000_000, _begin_pickle)
