"""One safetensors file of weights, read a run of rows at a time."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from glimpse_export.errors import CheckpointError
from glimpse_runtime.arrays import FloatArray

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def keep_all(key: str) -> bool:
    """Wants every tensor of a file."""
    return True


class TensorFile:
    """The tensors of a file by their names in it.

    Attributes:
        path: the file.
        shapes: shape of every tensor.
        dtypes: stored dtype of every tensor: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool] = keep_all) -> None:
        """Reads the header.

        Args:
            path: the file.
            wanted: tells for a name whether its tensor is needed; others may be anything.

        Raises:
            CheckpointError: the file cannot be read, or stores something else.
        """
        self.path = path
        try:
            with safe_open(str(path), framework="np") as file:
                slices = {key: file.get_slice(key) for key in file.keys() if wanted(key)}  # noqa: SIM118  (no mapping)
                self.shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
                found = {key: part.get_dtype() for key, part in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error}); download it again") from None
        for key, dtype in found.items():
            if dtype not in _DTYPES:
                raise CheckpointError(
                    f"{path}: tensor {key} is stored as {dtype}; F32, F16 and BF16 are read. Of a quantised checkpoint "
                    "take the unquantised one and export it with --precision int4"
                )
        self.dtypes = {key: _DTYPES[dtype] for key, dtype in found.items()}

    def read(self, key: str, *index: slice) -> FloatArray:
        """Returns a part of a tensor as float32, in memory of its own.

        The file is opened anew: pages of a mapped file stay in this process's memory until it is closed.

        Args:
            key: the tensor's name.
            index: which part along the first axes; nothing is all of it.

        Raises:
            CheckpointError: it cannot be read, or holds infinities or NaN.
        """
        try:
            with safe_open(str(self.path), framework="np") as file:
                part: FloatArray = file.get_slice(key)[index or (slice(None),)].astype(np.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise read_failed(key, self.path, error) from None
        require_finite(part, key, self.path)
        return part


def read_failed(key: str, path: Path, error: Exception) -> CheckpointError:
    """Returns the error for a tensor that cannot be read."""
    return CheckpointError(f"cannot read {key} from {path}: {error}")


def require_finite(part: FloatArray, key: str, path: Path) -> None:
    """Raises a CheckpointError where a tensor holds infinities or NaN."""
    if not np.isfinite(part).all():
        raise CheckpointError(f"{path}: tensor {key} holds values that are not finite")
