"""One file of weights that ``torch.save`` wrote, a pickle of plain tensors, read a run of rows at a time.

Nothing but tensors is unpickled: what else such a file could make is refused by torch's ``weights_only``.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.source.tensor_file import keep_all, read_failed, require_finite
from glimpse_runtime.arrays import FloatArray

_LARGEST_UNMAPPED_BYTES = 2 << 30
"""Files of torch before version 1.6 cannot be mapped; smaller ones are held in memory."""
_MAPPED_ANEW_AFTER_BYTES = 64 << 20
"""Pages of a mapped file stay in this process's memory until it is let go of; mapping it anew takes a while."""


class TorchFile:
    """The tensors of a file by their names in it; the same as ``TensorFile``.

    Attributes:
        path: the file.
        shapes: shape of every tensor.
        dtypes: stored dtype of every tensor: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool] = keep_all) -> None:
        """Reads the pickle, no tensor.

        Args:
            path: the file.
            wanted: tells for a name whether its tensor is needed; others may be anything.

        Raises:
            CheckpointError: the file cannot be read, or stores something else.
            UnsupportedError: it is large and of a form that cannot be mapped.
        """
        self.path = path
        self._held: Mapping[str, Any] | None = None
        self._mapped: Mapping[str, Any] | None = None
        self._read_bytes = 0
        if not _is_zip(path):
            if path.stat().st_size > _LARGEST_UNMAPPED_BYTES:
                raise UnsupportedError(
                    f"{path} has the form of torch before version 1.6, which cannot be mapped, and is too large to be "
                    "held in memory; load it with torch and save it as safetensors (safetensors.torch.save_file)"
                )
            self._held = self._load(mapped=False)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for key, value in self._tensors().items():
            if wanted(key):
                self.dtypes[key] = self._dtype(key, value)
                self.shapes[key] = tuple(value.shape)

    def read(self, key: str, *index: slice) -> FloatArray:
        """Returns a part of a tensor as float32, in memory of its own.

        Args:
            key: the tensor's name.
            index: which part along the first axes; nothing is all of it.

        Raises:
            CheckpointError: it cannot be read, or holds infinities or NaN.
        """
        try:
            # The empty index of ``[...]`` is for tensors without axes.
            tensor = self._tensors()[key].detach()[index or ...]
            # A tensor that is float32 already is a view of the file, and whoever reads it may write to it.
            part: FloatArray = np.array(tensor.numpy()) if self.dtypes[key] == "float32" else tensor.float().numpy()
            part = np.ascontiguousarray(part)
        except (RuntimeError, TypeError, IndexError, KeyError, OSError) as error:
            raise read_failed(key, self.path, error) from None
        require_finite(part, key, self.path)
        self._read_bytes += part.nbytes
        if self._read_bytes >= _MAPPED_ANEW_AFTER_BYTES:
            self._mapped, self._read_bytes = None, 0
        return part

    def _tensors(self) -> Mapping[str, Any]:
        """Several threads may read; each keeps what it got until it is done."""
        tensors = self._held or self._mapped
        if tensors is None:
            tensors = self._mapped = self._load(mapped=True)
        return tensors

    def _load(self, mapped: bool) -> Mapping[str, Any]:
        try:
            import torch
        except ImportError:
            raise CheckpointError(f'reading {self.path} needs torch; run: pip install "glimpse-edge[export]"') from None
        try:
            data = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped or None)
        except Exception as error:  # a damaged file may fail anywhere in torch's parser
            raise CheckpointError(
                f"{self.path} is damaged or holds more than plain tensors ({_reason(error)}); download it again, or "
                "save it as safetensors"
            ) from None
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise CheckpointError(f"{self.path} does not hold a dictionary of tensors; save the model's state_dict")
        return data

    def _dtype(self, key: str, value: Any) -> str:
        kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        if kind not in ("float32", "float16", "bfloat16"):
            raise CheckpointError(
                f"{self.path}: tensor {key} is stored as {kind}; float32, float16 and bfloat16 are read"
            )
        return kind


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
