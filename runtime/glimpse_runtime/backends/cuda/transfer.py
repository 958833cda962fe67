"""Arrays between host and device by way of page-locked memory, so that copies run beside the host's work."""

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.cuda.device import Cuda

_PART_BYTES = 4 << 20
_ALIGNMENT = 256


class Transfer:
    """Two parts of page-locked memory for the way up, one for the way down.

    An array is first copied into a part, so the caller may change it at once. A part is used again when all that was
    copied from it has arrived.
    """

    def __init__(self, cuda: Cuda, part_bytes: int = _PART_BYTES) -> None:
        """Allocates the parts."""
        self._cuda = cuda
        self._part_bytes = part_bytes
        self._parts = [cuda.pinned(part_bytes) for _ in range(2)]
        self._arrived = [cuda.event() for _ in range(2)]
        self._down = cuda.pinned(part_bytes)
        self._current, self._used = 0, 0

    def upload(self, array: Array, address: int) -> None:
        """Enqueues a copy of a C-contiguous array to the device."""
        source = array.reshape(-1).view(np.uint8)
        done = 0
        while done < source.size:
            if self._used >= self._part_bytes:
                self._next_part()
            part, start = self._parts[self._current], self._used
            count = min(source.size - done, self._part_bytes - start)
            part.array[start : start + count] = source[done : done + count]
            self._cuda.upload(part.address + start, address + done, count)
            self._used += -(-count // _ALIGNMENT) * _ALIGNMENT
            done += count

    def download(self, address: int, nbytes: int) -> Array:
        """Waits until the device has done everything so far; returns (bytes,) uint8."""
        out = np.empty(nbytes, np.uint8)
        for done in range(0, nbytes, self._part_bytes):
            count = min(nbytes - done, self._part_bytes)
            self._cuda.download(address + done, self._down.address, count)
            self._cuda.synchronize()
            out[done : done + count] = self._down.array[:count]
        return out

    def _next_part(self) -> None:
        self._arrived[self._current].record()
        self._current, self._used = 1 - self._current, 0
        self._arrived[self._current].synchronize()
