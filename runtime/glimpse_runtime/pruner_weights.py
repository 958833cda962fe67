"""Trained weights of a pruning method: an .npz file of the bundle."""

from collections.abc import Mapping

import numpy as np

from glimpse_runtime.bundle import Bundle
from glimpse_runtime.errors import BundleFormatError, PruningError
from glimpse_runtime.pruners import weights_file
from glimpse_runtime.types import FloatArray


def require_weights(bundle: Bundle, method: str) -> None:
    """Checks that a bundle has the weights of a method.

    Raises:
        PruningError: it has none.
    """
    name = weights_file(method)
    if name not in bundle.manifest.files:
        raise PruningError(
            f"pruning method {method!r} needs trained weights, and this bundle has no {name}; "
            "choose another method, or add the file to the bundle and to its manifest"
        )


def read_weights(bundle: Bundle, method: str) -> Mapping[str, FloatArray]:
    """Returns the arrays of a method's weights as float32.

    Raises:
        PruningError: the bundle has none.
        BundleFormatError: the file is not an .npz file of numbers.
    """
    require_weights(bundle, method)
    path = bundle.path(weights_file(method))
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]).astype(np.float32) for name in file.files}
    except Exception as error:
        raise BundleFormatError(f"{path} is not an .npz file of numbers: {error}; make it again") from None
