"""What the compaction kernel is given: the same plan that compact.cu lays out, as bytes, and how many blocks run it."""

import ctypes
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from glimpse_plugins.build import SOURCES
from glimpse_plugins.errors import PluginError
from glimpse_plugins.library import Keep, KeepForm, Rows

_MAX_ROWS = 65536
_MAX_GROUP_ROWS = 2**31 // 2
_VECTOR_BYTES = 16
_ENTRY_BYTES = 2  # of a kept row's number in shared memory
_GRANTED_BYTES = 48 << 10


class Launch(NamedTuple):
    """One launch of the kernel.

    Attributes:
        plan: its only argument, as bytes.
        blocks: how many run.
        threads: of a block.
        shared_bytes: of dynamic shared memory of a block.
        is_large: whether a GPU has to be asked for so much shared memory.
    """

    plan: ctypes.Structure
    blocks: int
    threads: int
    shared_bytes: int
    is_large: bool


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_uint64),
        ("destination", ctypes.c_uint64),
        ("groups", ctypes.c_int32),
        ("capacity", ctypes.c_int32),
        ("row_bytes", ctypes.c_int32),
        ("first_block", ctypes.c_int32),
        ("vector_shift", ctypes.c_uint8),
        ("strip_shift", ctypes.c_uint8),
        ("packed", ctypes.c_uint8),
    )


@cache
def _constant(name: str) -> int:
    """A constant of the kernel's source, which is where it stands."""
    found = re.search(rf"constexpr int {name} = (\d+);", (SOURCES / "compact_block.h").read_text(encoding="utf-8"))
    assert found is not None, name
    return int(found[1])


@cache
def _plan_type() -> type[ctypes.Structure]:
    class Plan(ctypes.Structure):
        _fields_ = (
            ("keep", ctypes.c_uint64),
            ("count", ctypes.c_uint64),
            ("form", ctypes.c_int32),
            ("rows", ctypes.c_int32),
            ("kept", ctypes.c_int32),
            ("tensor_count", ctypes.c_int32),
            ("tensors", _Tensor * _constant("MAX_TENSORS")),
        )

    return Plan


def launches(tensors: Sequence[Rows], keep: Keep, count: int = 0) -> Iterator[Launch]:
    """Returns what compacts tensors, one launch for every 100 of them; see ``CompactLibrary.compact``.

    Raises:
        PluginError: the arguments make no sense.
    """
    _check(tensors, keep)
    listed = keep.form == KeepForm.INDEX_INT32
    threads, most = _constant("THREADS"), _constant("MAX_TENSORS")
    shared = (keep.kept if listed else keep.rows) * _ENTRY_BYTES
    is_large = shared + 2 * threads * 4 > _GRANTED_BYTES
    for first in range(0, max(len(tensors), 1), most):
        part = tensors[first : first + most]
        plan = _plan_type()(keep.address, 0 if first else count, keep.form, keep.rows, keep.kept if listed else 0)
        plan.tensor_count = len(part)
        blocks = 0
        for slot, rows in zip(plan.tensors, part, strict=False):
            blocks = _lay_out(slot, rows, blocks)
        yield Launch(plan, max(blocks, 1), threads, shared, is_large)


def _lay_out(slot: _Tensor, rows: Rows, first_block: int) -> int:
    """Describes a tensor and returns the first block behind it."""
    together = rows.source | rows.destination | rows.row_bytes | _VECTOR_BYTES
    vector_shift = (together & -together).bit_length() - 1
    width, strip = rows.row_bytes >> vector_shift, _constant("STRIP_BYTES") >> vector_shift
    while strip // 2 >= width:
        strip //= 2
    slot.source, slot.destination = rows.source, rows.destination
    slot.groups, slot.capacity, slot.row_bytes = rows.groups, rows.capacity, rows.row_bytes
    slot.first_block = first_block
    slot.vector_shift, slot.strip_shift, slot.packed = vector_shift, strip.bit_length() - 1, int(rows.packed)
    return first_block + -(-width // strip) * (1 if rows.packed else rows.groups)


def _check(tensors: Sequence[Rows], keep: Keep) -> None:
    kept = keep.kept if keep.form == KeepForm.INDEX_INT32 else 0
    if not 0 <= kept <= keep.rows <= _MAX_ROWS:
        raise PluginError(f"compaction of {kept} of {keep.rows} rows; there may be {_MAX_ROWS}, and no more kept")
    for number, rows in enumerate(tensors):
        if rows.groups <= 0 or rows.row_bytes <= 0 or rows.groups * rows.capacity > _MAX_GROUP_ROWS:
            raise PluginError(f"compaction of tensor {number}: groups or bytes of a row are not positive, or too many")
        if rows.capacity < keep.rows:
            raise PluginError(f"compaction of tensor {number}: {keep.rows} rows, its capacity is {rows.capacity}")
        apart = abs(rows.source - rows.destination)
        if 0 < apart < rows.groups * rows.capacity * rows.row_bytes:
            raise PluginError(f"compaction of tensor {number}: source and destination overlap without being the same")
