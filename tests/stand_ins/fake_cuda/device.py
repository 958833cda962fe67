"""A device whose memory is memory of the host, and streams whose work is not done before somebody waits for it.

What real CUDA leaves undefined, and what it only reports as a crash, is an error here: memory used after it was freed,
freed twice or never, read beyond its end; memory of the host copied from or to while it is pageable; a graph launched
after its memory was freed.
"""

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

ALIGNMENT = 256
_QUARANTINE_BYTES = 64 << 20  # freed memory stays unused for so long that whoever still uses it is found out
_UNWRITTEN = 0xFF  # as a float it is not a number


class FakeCudaError(AssertionError):
    """The code under test does something that CUDA forbids or leaves undefined."""


@dataclass(eq=False)
class Block:
    """A piece of memory.

    Attributes:
        kind: ``device`` or ``pinned``.
        start: its address.
        size: its bytes.
        storage: what really holds it.
        is_freed: no work may be enqueued that uses it.
    """

    kind: str
    start: int
    size: int
    storage: np.ndarray
    is_freed: bool = False


@dataclass
class Work:
    """One operation on a stream.

    Attributes:
        name: for messages.
        blocks: memory that it uses.
        run: does it.
        when_enqueued: called when it is enqueued, also as part of a graph.
    """

    name: str
    blocks: Sequence[Block]
    run: Callable[[], None]
    when_enqueued: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Stream:
    """Work in order; while it is captured it goes to ``recording`` instead."""

    handle: int
    queue: deque[Work] = field(default_factory=deque)
    recording: list[Work] | None = None


@dataclass(eq=False)
class Event:
    """Whether the work before its last record is done, and when it was."""

    handle: int
    stream: Stream | None = None
    mark: Work | None = None
    reached_ms: float | None = None

    def reach(self) -> None:
        self.reached_ms = time.perf_counter() * 1e3


class Device:
    """Memory, streams and events of one process.

    Attributes:
        calls: names of all functions called, in order.
        peak_bytes: most device memory held at a time.
    """

    def __init__(self, memory_bytes: int = 1 << 34) -> None:
        self.lock = threading.RLock()
        self.memory_bytes = memory_bytes
        self.calls: list[str] = []
        self.peak_bytes = 0
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.pools: set[int] = set()
        self.contexts = 0
        self.threads: set[int] = set()
        self._blocks: dict[int, Block] = {}
        self._quarantine: deque[Block] = deque()
        self._next_handle = 0x1000

    def handle(self) -> int:
        self._next_handle += 16
        return self._next_handle

    def held_bytes(self, kind: str = "device") -> int:
        """Bytes that were allocated and not freed."""
        return sum(block.size for block in self._blocks.values() if block.kind == kind and not block.is_freed)

    def leaks(self) -> list[str]:
        """What was not given back, in words."""
        found = [f"{block.kind} memory of {block.size} bytes" for block in self._blocks.values() if not block.is_freed]
        for name in ("streams", "events", "graphs", "pools"):
            found += [f"one of the {name}"] * len(getattr(self, name))
        found += ["the context"] * self.contexts
        return found

    def allocate(self, kind: str, size: int) -> int:
        """Returns the address of memory full of a pattern; 0 when there is not enough."""
        with self.lock:
            if kind == "device" and self.held_bytes() + size > self.memory_bytes:
                return 0
            raw = np.full(size + ALIGNMENT, _UNWRITTEN, np.uint8)
            start = -(-raw.ctypes.data // ALIGNMENT) * ALIGNMENT
            self._blocks[start] = Block(kind, start, size, raw)
            self.peak_bytes = max(self.peak_bytes, self.held_bytes())
            return start

    def free(self, kind: str, address: int) -> Block:
        """Marks memory as freed: from now on no work that uses it may be enqueued."""
        with self.lock:
            block = self._blocks.get(address)
            if block is None or block.kind != kind:
                raise FakeCudaError(f"{address:#x} is not the address of {kind} memory")
            if block.is_freed:
                raise FakeCudaError(f"{kind} memory at {address:#x} was freed twice")
            block.is_freed = True
            return block

    def retire(self, block: Block) -> None:
        """Writes over freed memory, and forgets the oldest of it."""
        with self.lock:
            block.storage.fill(_UNWRITTEN)
            self._quarantine.append(block)
            while sum(old.size for old in self._quarantine) > _QUARANTINE_BYTES:
                del self._blocks[self._quarantine.popleft().start]

    def find(self, address: int, size: int, what: str, kind: str | None = None) -> Block:
        """Returns the block that an address range lies in."""
        with self.lock:
            for block in self._blocks.values():
                if block.start <= address < block.start + max(block.size, 1):
                    break
            else:
                raise FakeCudaError(f"{what}: {address:#x} lies in no memory of CUDA")
            if block.is_freed:
                raise FakeCudaError(f"{what}: the memory at {address:#x} was freed")
            if address + size > block.start + block.size:
                raise FakeCudaError(f"{what}: {size} bytes at {address:#x} reach beyond the {block.size} of its memory")
            if kind is not None and block.kind != kind:
                raise FakeCudaError(f"{what}: the memory at {address:#x} is {block.kind} memory, not {kind}")
            return block

    def stream(self, handle: int) -> Stream:
        if int(handle) not in self.streams:
            raise FakeCudaError(f"{int(handle):#x} is no stream")
        return self.streams[int(handle)]

    def enqueue(self, handle: int, work: Work) -> None:
        """Puts work behind a stream's other work, or into the graph that is captured on it."""
        with self.lock:
            stream = self.stream(handle)
            _require_live(work, "enqueued")
            if stream.recording is not None:
                stream.recording.append(work)
            else:
                stream.queue.append(work)
                work.when_enqueued()

    def launch(self, graph: int, handle: int) -> None:
        """Enqueues the work of a graph."""
        with self.lock:
            if graph not in self.graphs:
                raise FakeCudaError("the graph was destroyed")
            for work in self.graphs[graph]:
                _require_live(work, "launched in a graph")
                self.stream(handle).queue.append(Work(work.name, work.blocks, work.run))
                work.when_enqueued()

    def drain(self, stream: Stream, mark: Work | None = None) -> None:
        """Does a stream's work, up to a mark or all of it."""
        with self.lock:
            if stream.recording is not None:
                raise FakeCudaError("a stream was waited for while it is captured")
            while stream.queue:
                work = stream.queue.popleft()
                work.run()
                if work is mark:
                    break


def view(address: int, size: int) -> np.ndarray:
    """(size,) uint8 view of memory at an address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _require_live(work: Work, how: str) -> None:
    for block in work.blocks:
        if block.is_freed:
            raise FakeCudaError(f"{work.name} was {how} with memory at {block.start:#x} that was freed")
