"""A base checkpoint with a LoRA adapter merged into it, tensor by tensor while it is read."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from glimpse_export.errors import CheckpointError
from glimpse_export.model.size_fields import SizeFields
from glimpse_export.source.checkpoint import Checkpoint, Rename
from glimpse_export.source.lora.adapter import Lora
from glimpse_runtime.arrays import FloatArray


class MergedCheckpoint(Checkpoint):
    """Reads what peft's ``merge_and_unload`` would leave in the base's place, in the base's dtypes.

    As there, products and sums are made in float32 and rounded once, to the dtype of the base's tensor: peft holds LoRA
    weights in float32 (``autocast_adapter_dtype``) and adds ``get_delta_weight`` in place (``Linear.merge``). Of an
    embedding it rounds the product before it is added as well (``Embedding.merge``).
    """

    def __init__(
        self, folder: Path, rename: Rename, lora: Lora, tower: Path | None = None, keeps_own_tower: bool = False
    ) -> None:
        """Reads the base's headers; see ``Checkpoint``."""
        super().__init__(folder, rename, tower, keeps_own_tower)
        self._lora = lora

    def check(
        self,
        expected: Mapping[str, tuple[int, ...]],
        tied: bool,
        spare: Collection[str] = (),
        fields: SizeFields | None = None,
    ) -> None:
        """See ``Checkpoint``; the adapter must fit the base as well.

        Raises:
            CheckpointError: the base is not what the architecture needs, or the adapter is of another base.
            UnsupportedError: the adapter changes one of two tied weights.
        """
        super().check(expected, tied, spare, fields)
        self._lora.check(self.shapes, self.folder, tied)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> FloatArray:
        """See ``Checkpoint``.

        Raises:
            CheckpointError: it cannot be read, or the sum is not finite.
        """
        if not self._lora.changes(name):
            return super().read(name, start, stop)
        dtype, rows = self.dtypes[name], self._lora.replacement(name, start, stop)
        if rows is None:
            rows = super().read(name, start, stop)
        product = self._lora.products.get(name)
        if product is not None:
            added = product.rows(start, stop).reshape(rows.shape)
            rows += _rounded(added, dtype) if product.is_embedding else added
        rows = _rounded(rows, dtype)
        if not np.isfinite(rows).all():
            raise CheckpointError(
                f"{self._lora.files[1]}: merged into the base, {name} leaves the range of {dtype}; merge the adapter "
                "with peft into a base of a wider type"
            )
        return rows


def _rounded(values: FloatArray, dtype: str) -> FloatArray:
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float32)
