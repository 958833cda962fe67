"""Reads weights of a Hugging Face folder one tensor at a time; never holds more than the one asked for."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from glimpse_export.errors import CheckpointError
from glimpse_export.model.fields import read_json
from glimpse_export.source.matrix import Matrix
from glimpse_export.source.tensor_file import TensorFile
from glimpse_runtime.arrays import FloatArray

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Checkpoint:
    """The weights of a base model, sharded or in one file.

    Attributes:
        folder: where the files lie.
        shapes: shape of every tensor, by its published name.
        dtypes: stored dtype of every tensor: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str | None] = lambda key: key) -> None:
        """Reads the headers.

        Args:
            folder: where the files lie.
            rename: turns a name in a file into the published one; None leaves the tensor out.

        Raises:
            CheckpointError: there are no weights, or a file cannot be read.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._where: dict[str, tuple[TensorFile, str]] = {}
        self.file_names = self._find_files()
        for file_name in self.file_names:
            file = TensorFile(folder / file_name)
            for key, shape in file.shapes.items():
                name = rename(key)
                if name is None:
                    continue
                self.shapes[name], self.dtypes[name] = shape, file.dtypes[key]
                self._where[name] = (file, key)

    def _find_files(self) -> list[str]:
        # Where both are there, transformers reads the single file.
        if (self.folder / _SINGLE).is_file():
            names = [_SINGLE]
        elif (self.folder / _INDEX).is_file():
            names = _shard_names(self.folder / _INDEX)
        else:
            raise CheckpointError(f"{self.folder} has no {_SINGLE} and no {_INDEX}; only safetensors weights are read")
        for name in names:
            if not (self.folder / name).is_file():
                raise CheckpointError(f"{self.folder / name} is missing; download the checkpoint again")
        return names

    def check(self, expected: Mapping[str, tuple[int, ...]], tied: bool) -> None:
        """Compares names and shapes with what the architecture needs.

        Raises:
            CheckpointError: a tensor is missing, has another shape, or has no place in this architecture.
        """
        check_shapes(expected, self.shapes, str(self.folder), ".inv_freq", "lm_head.weight" if tied else None)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> FloatArray:
        """Returns rows start..stop of a tensor as float32.

        Raises:
            CheckpointError: it cannot be read, or holds infinities or NaN.
        """
        file, key = self._where[name]
        return file.read(key, slice(start, stop))

    def matrix(self, name: str) -> Matrix:
        """Returns a tensor of two or more axes as (rows, the rest), not read yet."""
        rows, *rest = self.shapes[name]
        columns = math.prod(rest)
        return Matrix(name, rows, columns, lambda start, stop: self.read(name, start, stop).reshape(-1, columns))


def check_shapes(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    where: str,
    *harmless: str | None,
) -> None:
    """Compares tensor names and shapes; names that contain a ``harmless`` text may be there in addition.

    Raises:
        CheckpointError: naming the first tensor that is missing, misshapen or unknown.
    """
    missing = sorted(set(expected) - set(found))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{where} lacks tensor {missing[0]}{more}; the checkpoint is incomplete")
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise CheckpointError(
                f"{where}: tensor {name} has shape {tuple(found[name])}, its config.json asks for {tuple(shape)}"
            )
    for name in sorted(set(found) - set(expected)):
        if not any(part is not None and part in name for part in harmless):
            raise CheckpointError(
                f"{where}: tensor {name} has no place in this architecture; if it belongs to a LoRA adapter, name the "
                "adapter's own folder with --lora"
            )


def _shard_names(path: Path) -> list[str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; download the checkpoint again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise CheckpointError(f"{path}: weight_map gives {name!r} as the file of {tensor}; download it again")
    return sorted(set(weight_map.values()))
