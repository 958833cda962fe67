"""Reads weights of Hugging Face folders one tensor at a time; never holds more than the one asked for."""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from glimpse_export.errors import CheckpointError
from glimpse_export.model.size_fields import SizeFields
from glimpse_export.source.matrix import Matrix
from glimpse_export.source.tensor_file import TensorFile
from glimpse_export.source.torch_file import TorchFile
from glimpse_export.source.weight_folder import open_weights, weight_files
from glimpse_runtime.arrays import FloatArray

Rename = Callable[[str, bool], str | None]
"""Turns a name in a file into the published one, None leaves the tensor out; the flag says that the file is a vision
tower's own."""


class Checkpoint:
    """The weights of a base model, sharded or in one file, with those of a vision tower that lies apart.

    Attributes:
        folder: where the base's files lie.
        tower: where the vision tower's files lie, None where it is among the base's.
        shapes: shape of every tensor, by its published name.
        dtypes: stored dtype of every tensor: ``float32``, ``float16`` or ``bfloat16``.
        file_names: the base's weight files.
        tower_file_names: the tower's.
    """

    def __init__(
        self,
        folder: Path,
        rename: Rename = lambda key, of_tower: key,
        tower: Path | None = None,
        keeps_own_tower: bool = False,
    ) -> None:
        """Reads the headers.

        Args:
            folder: where the base's files lie.
            rename: gives tensors their published names.
            tower: where the files of a vision tower lie that is not among the base's.
            keeps_own_tower: tensors that both folders have are the base's.

        Raises:
            CheckpointError: there are no weights, or a file cannot be read.
        """
        self.folder, self.tower = folder, tower
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._where: dict[str, tuple[TensorFile | TorchFile, str]] = {}
        self.file_names = weight_files(folder)
        self.tower_file_names = [] if tower is None else weight_files(tower)
        for name in self.file_names:
            self._add(folder / name, rename, of_tower=False)
        own = set(self.shapes) if keeps_own_tower else set()
        for name in self.tower_file_names:
            assert tower is not None
            self._add(tower / name, lambda key, of_tower: _unless(own, rename(key, of_tower)), of_tower=True)

    @property
    def files(self) -> list[Path]:
        """All weight files."""
        tower = self.tower or self.folder
        return [*(self.folder / name for name in self.file_names), *(tower / name for name in self.tower_file_names)]

    @property
    def source_bytes(self) -> int:
        """Size of all weight files."""
        return sum(path.stat().st_size for path in self.files)

    def _add(self, path: Path, rename: Rename, of_tower: bool) -> None:
        file = open_weights(path, lambda key: rename(key, of_tower) is not None)
        for key, shape in file.shapes.items():
            name = rename(key, of_tower)
            assert name is not None
            if name in self._where and self._where[name][0].path.parent == path.parent:
                other, other_key = self._where[name]
                raise CheckpointError(
                    f"{path}: tensor {key} is {name} once more, which is {other_key} of {other.path.name}; delete one "
                    "of them, or download the checkpoint again"
                )
            self.shapes[name], self.dtypes[name] = shape, file.dtypes[key]
            self._where[name] = (file, key)

    def check(
        self,
        expected: Mapping[str, tuple[int, ...]],
        tied: bool,
        spare: Collection[str] = (),
        fields: SizeFields | None = None,
    ) -> None:
        """Compares names and shapes with what the architecture needs.

        Args:
            expected: names and shapes.
            tied: whether the LM head is the embedding table.
            spare: tensors of the architecture that nothing is computed from; they are left out from now on.
            fields: what the sizes are called in the configuration.

        Raises:
            CheckpointError: a tensor is missing, has another shape, or has no place in this architecture.
        """
        for name in spare:
            if self.shapes.pop(name, None) is not None:
                del self.dtypes[name], self._where[name]
        where = str(self.folder) if self.tower is None else f"{self.folder} with the vision tower {self.tower}"
        harmless = (".inv_freq", "lm_head.weight" if tied else None)
        check_shapes(expected, self.shapes, where, *harmless, fields=fields or SizeFields())

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
    fields: SizeFields | None = None,
) -> None:
    """Compares tensor names and shapes; names that contain a ``harmless`` text may be there in addition.

    Args:
        expected: what a configuration asks for.
        found: what there is.
        where: what to call that in errors.
        harmless: texts.
        fields: what the sizes are called in the configuration.

    Raises:
        CheckpointError: naming the first tensor that is missing, misshapen or unknown.
    """
    fields = fields or SizeFields()
    missing = sorted(set(expected) - set(found))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = fields.of_count(missing[0])
        # Where nothing is missing but called otherwise, as by a wrapper of training, the names themselves say it best.
        strange = next((key for key in sorted(found) if key.endswith(missing[0])), None)
        if strange is not None:
            raise CheckpointError(
                f"{where} lacks tensor {missing[0]}{more}; it has {strange}: save the model itself again, not what "
                "wraps it"
            )
        raise CheckpointError(f"{where} lacks tensor {missing[0]}{more}; the checkpoint is incomplete{hint}")
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise CheckpointError(
                f"{where}: tensor {name} has shape {tuple(found[name])}, its config.json asks for {tuple(shape)}"
                f"{fields.of_shape(name, found[name], shape)}"
            )
    for name in sorted(set(found) - set(expected)):
        if not any(part is not None and part in name for part in harmless):
            raise CheckpointError(
                f"{where}: tensor {name} has no place in this architecture; if it belongs to a LoRA adapter, name the "
                f"adapter's own folder with --lora{fields.of_count(name)}"
            )


def _unless(taken: Collection[str], name: str | None) -> str | None:
    return None if name in taken else name
