"""Calls that make no sense are refused with the reason, before anything is written."""

from pathlib import Path

import numpy as np
import pytest
from kernels import host_library

from glimpse_plugins.errors import PluginError
from glimpse_plugins.library import CompactLibrary, Keep, KeepForm, Rows, cache_rows
from glimpse_runtime.errors import GlimpseError

ROWS = 8


@pytest.fixture
def memory() -> np.ndarray:
    return np.arange(4096, dtype=np.uint8)


@pytest.fixture
def keep() -> Keep:
    mask = np.ones(ROWS, np.uint8)
    keep = Keep(mask.ctypes.data, KeepForm.MASK_BYTES, ROWS)
    keep_alive.append(mask)
    return keep


keep_alive: list[np.ndarray] = []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": 0}, "tensor 1: an address is null"),
        ({"destination": 0}, "tensor 1: an address is null"),
        ({"groups": 0}, "tensor 1: groups, capacity or row bytes"),
        ({"groups": 1 << 20, "capacity": 1 << 20}, "tensor 1: groups, capacity or row bytes"),
        ({"row_bytes": -4}, "tensor 1: groups, capacity or row bytes"),
        ({"capacity": ROWS - 1}, "tensor 1: the capacity is smaller than the number of rows"),
        ({"destination": 16}, "tensor 1: source and destination overlap"),
    ],
)
def test_a_tensor_is_refused(memory: np.ndarray, keep: Keep, change: dict[str, int], reason: str) -> None:
    good = cache_rows(memory.ctypes.data, memory.ctypes.data, 2, ROWS, 16)
    if change.get("destination"):
        change = {"destination": memory.ctypes.data + change["destination"]}
    before = memory.copy()
    with pytest.raises(PluginError, match=f"compaction of 2 tensors, 8 rows: {reason}"):
        host_library().compact([good, good._replace(**change)], keep)
    assert np.array_equal(memory, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"address": 0}, "an address is null"),
        ({"form": 3}, "none of byte mask"),
        ({"rows": -1}, "number of rows is below 0"),
        ({"rows": 65537}, "above 65536"),
        ({"form": KeepForm.INDEX_INT32, "kept": ROWS + 1}, "entries of the index list"),
        ({"form": KeepForm.INDEX_INT32, "kept": -1}, "entries of the index list"),
    ],
)
def test_a_keep_list_is_refused(keep: Keep, change: dict[str, int], reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        host_library().compact([], keep._replace(**change))


def test_tensors_side_by_side_do_not_overlap(memory: np.ndarray, keep: Keep) -> None:
    start = memory.ctypes.data
    host_library().compact([Rows(start, start + 2 * ROWS * 16, 2, ROWS, 16)], keep)
    assert np.array_equal(memory[2 * ROWS * 16 :][: 2 * ROWS * 16], np.arange(2 * ROWS * 16, dtype=np.uint8))


def test_no_rows_and_no_tensors_are_nothing_to_do(memory: np.ndarray) -> None:
    count = np.full(1, -1, np.int32)
    start = memory.ctypes.data
    host_library().compact([cache_rows(start, start, 2, ROWS, 16)], Keep(0, KeepForm.MASK_BYTES, 0), count.ctypes.data)
    assert count[0] == 0
    assert np.array_equal(memory, np.arange(4096, dtype=np.uint8))


def test_without_tensors_the_rows_are_counted(keep: Keep) -> None:
    count = np.full(1, -1, np.int32)
    host_library().compact([], keep, count.ctypes.data)
    assert count[0] == ROWS


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    path = tmp_path / "libglimpse_compact.so"
    path.write_text("cut short")
    with pytest.raises(PluginError, match=r"libglimpse_compact\.so cannot be loaded .* built again"):
        CompactLibrary(path)


def test_its_errors_hang_in_the_one_tree() -> None:
    assert issubclass(PluginError, GlimpseError)
