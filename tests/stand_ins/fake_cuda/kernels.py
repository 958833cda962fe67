"""The host's build of the kernel library behind a stream: it does its work when the fake device comes to it."""

from collections.abc import Sequence

from glimpse_plugins.library import CompactLibrary, Keep, Rows
from stand_ins.fake_cuda.device import Device, FakeCudaError, Work


class StreamedLibrary:
    """What ``CompactLibrary`` is on a GPU: addresses are of the device, and the call only enqueues.

    Attributes:
        launches: how often it was called.
    """

    def __init__(self, device: Device, library: CompactLibrary) -> None:
        self.launches = 0
        self._device = device
        self._library = library

    def compact(self, tensors: Sequence[Rows], keep: Keep, count: int = 0, stream: int = 0) -> None:
        find = self._device.find
        blocks = [find(keep.address, 4 * keep.kept, "kept rows", "device")]
        for rows in tensors:
            if rows.capacity < keep.rows:
                raise FakeCudaError(f"{keep.rows} rows of a tensor that has {rows.capacity}")
            size = rows.groups * rows.capacity * rows.row_bytes
            blocks += [find(address, size, "compaction", "device") for address in (rows.source, rows.destination)]
        self.launches += 1
        self._device.enqueue(stream, Work("compaction", blocks, lambda: self._library.compact(tensors, keep, count)))
