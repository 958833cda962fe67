"""Calls the kernel library: tensors are given by address, so it serves device memory of any owner."""

import ctypes
import enum
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from glimpse_plugins.errors import PluginError

_TEXT_BYTES = 256


class KeepForm(enum.IntEnum):
    """How the kept rows are named."""

    MASK_BYTES = 0
    """uint8 or bool (rows,): kept where it is not zero."""
    MASK_INT32 = 1
    """int32 (rows,): likewise."""
    INDEX_INT32 = 2
    """int32 (kept,): the kept rows, ascending."""


class Keep(NamedTuple):
    """Which rows of a prompt are kept.

    Attributes:
        address: of the mask or index list; 4-byte aligned where it is int32.
        form: what lies there.
        rows: of the prompt, at most 65,536.
        kept: entries of an index list; with a mask it is not read.
    """

    address: int
    form: KeepForm
    rows: int
    kept: int = 0


class Rows(NamedTuple):
    """A tensor whose rows are compacted; see the functions of this module for the usual ones.

    Attributes:
        source: address of the rows.
        destination: the source itself (in place), or memory that does not overlap it.
        groups: groups of rows, one behind the other.
        capacity: rows there is memory for in a group, at least the prompt's rows.
        row_bytes: bytes of a row.
        packed: whether the kept rows of a group follow those of the group before at once.
    """

    source: int
    destination: int
    groups: int
    capacity: int
    row_bytes: int
    packed: bool = False


def cache_rows(source: int, destination: int, kv_heads: int, capacity: int, row_bytes: int) -> Rows:
    """A tensor of the KV cache, (1, kv_heads, capacity, width), of the same shape before and after."""
    return Rows(source, destination, kv_heads, capacity, row_bytes)


def hidden_rows(source: int, destination: int, rows: int, row_bytes: int) -> Rows:
    """Hidden states: (1, rows, hidden) becomes (1, kept, hidden)."""
    return Rows(source, destination, 1, rows, row_bytes)


def position_rows(source: int, destination: int, rows: int) -> Rows:
    """Positions: int32 (3, rows) becomes (3, kept)."""
    return Rows(source, destination, 3, rows, 4, packed=True)


class _Rows(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_void_p),
        ("destination", ctypes.c_void_p),
        ("groups", ctypes.c_int32),
        ("capacity", ctypes.c_int32),
        ("row_bytes", ctypes.c_int32),
        ("packed", ctypes.c_int32),
    )


class _Keep(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("form", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("kept", ctypes.c_int32),
    )


def require_own(path: Path) -> None:
    """Refuses code that somebody else may have put there: a cache may be shared.

    Raises:
        PluginError: file or folder belong to another user than this one or root, or others may write to them.
    """
    if not hasattr(os, "getuid"):
        return
    for place in (path, path.parent):
        try:
            found = place.stat()
        except OSError as error:
            raise PluginError(f"{place} cannot be read ({error.strerror}). Build the library again.") from None
        if found.st_uid not in (0, os.getuid()) or found.st_mode & stat.S_IWOTH:
            raise PluginError(f"{place} is another user's, or others may write to it. Set GLIMPSE_CACHE to your own.")


class CompactLibrary:
    """The kernels: built for a GPU all addresses are device addresses, built for the host they are host addresses."""

    def __init__(self, path: Path) -> None:
        """Loads a library that ``glimpse_plugins.build`` made.

        Raises:
            PluginError: it cannot be loaded.
        """
        require_own(path)
        try:
            self._library = ctypes.CDLL(str(path))
            self._compact, self._explain = self._library.glimpse_compact, self._library.glimpse_compact_explain
        except (OSError, AttributeError) as error:
            raise PluginError(f"{path} cannot be loaded ({error}). Delete its folder, and it is built again.") from None
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        self._compact.argtypes = (ctypes.POINTER(_Rows), integer, ctypes.POINTER(_Keep), pointer, pointer)
        self._compact.restype = integer
        self._explain.argtypes = (integer, ctypes.c_char_p, integer)
        self._explain.restype = None

    def compact(self, tensors: Sequence[Rows], keep: Keep, count: int = 0, stream: int = 0) -> None:
        """Moves the kept rows of all tensors to the front, in order; on a GPU it only enqueues that.

        It neither allocates nor waits, so it may be captured in a CUDA graph.

        Args:
            tensors: what to compact: KV cache of all layers, hidden states, positions.
            keep: the kept rows.
            count: address of an int32 that receives the number of kept rows; 0 for none.
            stream: a cudaStream_t; the host takes no notice of it.

        Raises:
            PluginError: the arguments make no sense, or CUDA refused the launch.
        """
        rows = (_Rows * len(tensors))(*(_Rows(*tensor) for tensor in tensors))
        status = self._compact(rows, len(tensors), _Keep(*keep), count or None, stream or None)
        if status:
            text = ctypes.create_string_buffer(_TEXT_BYTES)
            self._explain(status, text, _TEXT_BYTES)
            raise PluginError(f"compaction of {len(tensors)} tensors, {keep.rows} rows: {text.value.decode()}.")
