"""Trained weights of pruning methods: every ``pruner.NAME.npz`` of an adapter folder goes into the bundle as it is."""

import shutil
from pathlib import Path

from glimpse_export.errors import CheckpointError
from glimpse_export.source.hashes import file_spec
from glimpse_runtime.bundle.manifest import FileSpec
from glimpse_runtime.errors import BundleFormatError, PruningError
from glimpse_runtime.pruners import find, method_of, weights_file
from glimpse_runtime.pruning.weights import load_weights

PATTERN = weights_file("*")


def find_files(folder: Path, hidden: int) -> tuple[Path, ...]:
    """Finds the files of an adapter folder and checks them.

    Args:
        folder: the adapter's folder.
        hidden: width of the model's tokens.

    Raises:
        CheckpointError: a file is damaged, or does not hold what its method needs. Of a method that is not installed
            here, nothing is known beyond that its arrays must be finite numbers.
    """
    paths = tuple(sorted(folder.glob(PATTERN)))
    for path in paths:
        _check(path, hidden)
    return paths


def copy_files(paths: tuple[Path, ...], folder: Path) -> dict[str, FileSpec]:
    """Copies the files into a folder and returns the copies' sizes and hashes."""
    return {path.name: file_spec(Path(shutil.copyfile(path, folder / path.name))) for path in paths}


def _check(path: Path, hidden: int) -> None:
    method = method_of(path.name) or ""
    try:
        pruner = find(method)
    except PruningError:
        pruner = None
    if pruner is not None and "weights" not in pruner.needs:
        raise CheckpointError(f"{path}: pruning method {method!r} takes no trained weights; move the file away")
    try:
        load_weights(path, pruner.weights if pruner is not None else {}, hidden)
    except BundleFormatError as error:
        raise CheckpointError(str(error)) from None
