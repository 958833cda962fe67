"""Trained weights of a pruning method: an .npz file of the bundle."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.errors import BundleFormatError, PruningError
from glimpse_runtime.pruners import Pruner, weights_file

# Of the published selectors for 7B models the largest has a tenth of this.
_LARGEST_BYTES = 512 << 20


def require_weights(bundle: Bundle, method: str) -> None:
    """Checks that a bundle has the weights of a method.

    Raises:
        PruningError: it has none.
    """
    name = weights_file(method)
    if name not in bundle.manifest.files:
        raise PruningError(
            f"pruning method {method!r} needs trained weights, and this bundle has no {name}; "
            "choose another method, or put the file into the model's adapter folder and export it again"
        )


def read_weights(bundle: Bundle, pruner: Pruner) -> Mapping[str, FloatArray]:
    """Returns the arrays of a method's weights as float32.

    Raises:
        PruningError: the bundle has none.
        BundleFormatError: the file does not hold what the method needs.
    """
    require_weights(bundle, pruner.name)
    return load_weights(bundle.path(weights_file(pruner.name)), pruner.weights, bundle.manifest.text.hidden_size)


def load_weights(path: Path, shapes: Mapping[str, tuple[str, ...]], hidden: int) -> Mapping[str, FloatArray]:
    """Reads a file of weights as float32.

    Args:
        path: the .npz file.
        shapes: as ``Pruner.weights`` has them; empty for a method that does not say.
        hidden: width of the model's tokens.

    Raises:
        BundleFormatError: it is not an .npz file of finite numbers, or lacks an array, has one too many or one of
            another shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            nbytes = sum(entry.file_size for entry in archive.infolist())
        if nbytes > _LARGEST_BYTES:
            raise BundleFormatError(f"{path} unpacks to {nbytes} bytes, more than weights can have; make it again")
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except BundleFormatError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in numpy and zipfile
        raise BundleFormatError(f"{path} is not an .npz file of numbers: {error}; make it again") from None
    problem = _bad_values(stored) or (_misfit(stored, shapes, hidden) if shapes else None)
    if problem:
        raise BundleFormatError(f"{path}: {problem}; make it again")
    return {name: array.astype(np.float32) for name, array in stored.items()}


def _bad_values(arrays: Mapping[str, Array]) -> str | None:
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            return f"array {name} holds {array.dtype} instead of floating point numbers"
        if not np.isfinite(array).all():
            return f"array {name} holds values that are not finite"
    return None


def _misfit(arrays: Mapping[str, Array], shapes: Mapping[str, tuple[str, ...]], hidden: int) -> str | None:
    """Says which array does not fit; the first that shows a dimension decides its length."""
    for name in sorted(set(arrays) ^ set(shapes)):
        return f"array {name} is missing" if name in shapes else f"array {name} is unknown"
    known = {"hidden": hidden}
    for name, dims in shapes.items():
        found = arrays[name].shape
        if len(found) == len(dims):
            for dim, length in zip(dims, found, strict=True):
                if "+" not in dim:
                    known.setdefault(dim, length)
        if found != tuple(sum(known.get(part, -1) for part in dim.split("+")) for dim in dims):
            lengths = ", ".join(f"{dim} = {length}" for dim, length in known.items())
            return f"array {name} has shape {found}, it must be ({', '.join(dims)}) where {lengths}"
    return None
