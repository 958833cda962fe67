"""The token embedding table: raw rows, memory-mapped."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.bundle.manifest import EmbeddingSpec

EMBEDDING_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


@dataclass(frozen=True)
class EmbeddingTable:
    """Rows of the token embedding, widened to float32 when they are read."""

    stored: Array
    dtype: str

    def rows(self, ids: IntArray) -> FloatArray:
        """Returns the embeddings of ``ids``: (tokens,) int -> (tokens, hidden) float32."""
        rows: Array = self.stored[ids]
        widened: FloatArray = (
            (rows.astype(np.uint32) << 16).view(np.float32) if self.dtype == "bfloat16" else rows.astype(np.float32)
        )
        return widened


def open_table(path: Path, spec: EmbeddingSpec) -> EmbeddingTable:
    """Returns a memory-mapped token embedding table."""
    stored = np.memmap(path, EMBEDDING_DTYPES[spec.dtype], mode="r", shape=(spec.rows, spec.columns))
    return EmbeddingTable(stored, spec.dtype)
