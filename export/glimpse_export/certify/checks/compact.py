"""Checks the compact stage, where a dialect has one: kept rows in order, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.written.cuts import bind
from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.ort import import_onnxruntime
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec

STAGE = "compact"
_ROWS = 48
_KEPT_SHARE = 0.4


def check_compact(folder: Path, stages: Mapping[str, StageSpec], recorder: Recorder) -> None:
    """Runs the stage on random rows and counts the values that are not those of the kept rows."""
    if STAGE not in stages:
        return
    onnxruntime = import_onnxruntime("cpu")
    spec, rng = stages[STAGE], np.random.default_rng(0)
    past = [tensor for tensor in spec.inputs if tensor.name.startswith("past.")]
    rows = min(_ROWS, *(tensor.shape[2] for tensor in past if isinstance(tensor.shape[2], int)))
    keep = rng.random(rows) < _KEPT_SHARE
    given = {"keep": keep, **{tensor.name: _random(tensor, rows, rng) for tensor in spec.inputs[1:]}}
    session = onnxruntime.InferenceSession(str(folder / spec.file), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    found = {
        tensor.name: np.zeros([dim if isinstance(dim, int) else int(keep.sum()) for dim in tensor.shape], tensor.dtype)
        for tensor in spec.outputs
    }
    for name, array in given.items():
        bind(binding.bind_input, name, array)
    for name, array in found.items():
        bind(binding.bind_output, name, array)
    session.run_with_iobinding(binding)
    where = np.flatnonzero(keep)
    wrong = int(found.pop("count") != len(where))
    for name, array in found.items():
        if name.startswith("present."):
            array, expected = array[:, :, : len(where)], given[name.replace("present.", "past.")][:, :, where]
        else:
            expected = np.take(given[{"hidden_out": "hidden_in", "positions_out": "positions"}[name]], where, axis=1)
        wrong += int((array != expected).sum())
    recorder.at_most(STAGE, None, "different_rows", wrong, 0)


def _random(tensor: TensorSpec, rows: int, rng: np.random.Generator) -> Array:
    """Whole numbers, which every type holds; rows of a cache behind those at hand stay zero."""
    shape = [dim if isinstance(dim, int) else rows for dim in tensor.shape]
    if not tensor.name.startswith("past."):
        return rng.integers(-100, 100, shape).astype(tensor.dtype)
    array = np.zeros(shape, tensor.dtype)
    array[:, :, :rows] = rng.integers(-100, 100, (*shape[:2], rows, *shape[3:]))
    return array
