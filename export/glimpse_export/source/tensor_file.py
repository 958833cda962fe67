"""One safetensors file of weights, read a run of rows at a time."""

from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from glimpse_export.errors import CheckpointError
from glimpse_runtime.arrays import FloatArray

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TensorFile:
    """The tensors of a file by their names in it.

    Attributes:
        path: the file.
        shapes: shape of every tensor.
        dtypes: stored dtype of every tensor: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            CheckpointError: the file cannot be read, or stores something else.
        """
        self.path = path
        try:
            with safe_open(str(path), framework="np") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
                self.shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
                found = {key: part.get_dtype() for key, part in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error}); download it again") from None
        for key, dtype in found.items():
            if dtype not in _DTYPES:
                raise CheckpointError(f"{path}: tensor {key} is stored as {dtype}; F32, F16 and BF16 are read")
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
            raise CheckpointError(f"cannot read {key} from {self.path}: {error}") from None
        if not np.isfinite(part).all():
            raise CheckpointError(f"{self.path}: tensor {key} holds values that are not finite")
        return part
