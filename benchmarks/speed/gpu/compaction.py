"""The compaction kernel on a GPU: equal to numpy on random masks, and its share of the device's copy bandwidth.

python benchmarks/speed/gpu/compaction.py [--rows 4096] [--layers 24] [--kv-heads 2] [--json]

Exit status: 0, 1 when a result differs, 3 when there is no GPU. The copy that it is compared with is a device-to-device
copy of as many bytes as rows are kept; in place, rows that are where they belong are not moved, so all kept is no work.
Times are medians of CUDA events; before each measurement memory larger than any cache is overwritten.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.gpu.driver import Gpu, NoGpuError
from glimpse_plugins.library import CompactLibrary, Keep, KeepForm, Rows, cache_rows, hidden_rows, position_rows
from glimpse_runtime.backends.compact import compact_prompt
from glimpse_runtime.backends.cuda.compaction import Kernels
from glimpse_runtime.errors import BackendError

MASKS = 1000
KEPT_SHARES = (0.1, 0.25, 0.5, 1.0)
GOAL = 0.8
FLUSH_BYTES = 256 << 20
NO_GPU = 3


@dataclass(frozen=True)
class Geometry:
    """What is compacted: a KV cache of float16 and hidden states of float32."""

    layers: int
    kv_heads: int
    capacity: int
    width: int
    hidden: int

    @property
    def cache_bytes(self) -> int:
        """Bytes of one cache tensor."""
        return self.kv_heads * self.capacity * self.width * 2

    def kept_bytes(self, kept: int) -> int:
        """Bytes of so many rows of everything."""
        return kept * (2 * self.layers * self.kv_heads * self.width * 2 + self.hidden * 4 + 3 * 4)


@dataclass(frozen=True)
class Timing:
    """One measurement."""

    kept_share: float
    in_place: bool
    megabytes_kept: float
    compact_ms: float
    copy_ms: float
    share_of_copy: float


class Prompt:
    """The tensors of one prompt on the GPU, where they are and where they go to."""

    def __init__(self, gpu: Gpu, geometry: Geometry, rows: int, in_place: bool) -> None:
        """Allocates."""
        self.geometry, self.rows = geometry, rows
        nbytes = [rows * geometry.hidden * 4, 3 * rows * 4, *[geometry.cache_bytes] * (2 * geometry.layers)]
        self.sources = [gpu.allocate(size) for size in nbytes]
        self.results = self.sources if in_place else [gpu.allocate(size) for size in nbytes]
        self.nbytes = nbytes
        self.keep, self.count = gpu.allocate(4 * rows), gpu.allocate(4)

    def tensors(self) -> list[Rows]:
        """Returns what the kernel is told."""
        hidden, positions, *buffers = zip(self.sources, self.results, strict=True)
        geometry = self.geometry
        return [
            hidden_rows(*hidden, self.rows, geometry.hidden * 4),
            position_rows(*positions, self.rows),
            *(cache_rows(*buffer, geometry.kv_heads, geometry.capacity, geometry.width * 2) for buffer in buffers),
        ]


def count_differences(gpu: Gpu, library: Kernels, masks: int) -> int:
    """Returns for how many of some random masks the GPU gives anything else than numpy."""
    rng = np.random.default_rng(0)
    wrong = 0
    for index in range(masks):
        layers, heads, width = (int(rng.integers(1, most)) for most in (4, 4, 80))
        capacity = int(rng.integers(1, 2000 if index % 50 == 0 else 200))
        geometry = Geometry(layers, heads, capacity, width, int(rng.integers(1, 64)))
        rows, form = int(rng.integers(1, capacity + 1)), KeepForm(index % 3)
        mask = rng.random(rows) < rng.choice([0.0, 1.0, rng.random()], p=[0.05, 0.05, 0.9])
        prompt = Prompt(gpu, geometry, rows, in_place=index % 2 == 0)
        contents = [rng.integers(0, 256, size, np.uint8) for size in prompt.nbytes]
        for address, content in zip(prompt.sources, contents, strict=True):
            gpu.write(address, content)
        kept = run(gpu, library, prompt, mask, form)
        wrong += not is_equal(gpu, prompt, mask, kept, contents)
        gpu.free()
    return wrong


def run(gpu: Gpu, library: Kernels, prompt: Prompt, mask: NDArray[np.bool_], form: KeepForm) -> int:
    """Compacts a prompt and returns the count that the kernel wrote."""
    listed = {
        KeepForm.MASK_BYTES: mask.astype(np.uint8),
        KeepForm.MASK_INT32: mask.astype(np.int32),
        KeepForm.INDEX_INT32: np.flatnonzero(mask).astype(np.int32),
    }[form]
    gpu.write(prompt.keep, listed.view(np.uint8))
    keep = Keep(prompt.keep, form, prompt.rows, len(listed))
    library.compact(prompt.tensors(), keep, prompt.count, gpu.stream)
    return int(gpu.read(prompt.count, 4).view(np.int32)[0])


def is_equal(
    gpu: Gpu, prompt: Prompt, mask: NDArray[np.bool_], kept: int, contents: Sequence[NDArray[np.uint8]]
) -> bool:
    """Compares what the GPU holds with the definition."""
    geometry = prompt.geometry
    shape = (1, geometry.kv_heads, geometry.capacity, geometry.width * 2)
    hidden, positions = contents[0].reshape(1, prompt.rows, -1), contents[1].view(np.int32).reshape(3, -1)
    expected = compact_prompt(mask, hidden, positions, [content.reshape(shape) for content in contents[2:]])
    got = [gpu.read(address, size) for address, size in zip(prompt.results, prompt.nbytes, strict=True)]
    same = kept == expected.count
    same &= np.array_equal(got[0][: expected.hidden.size], expected.hidden.reshape(-1))
    same &= np.array_equal(got[1].view(np.int32)[: expected.positions.size], expected.positions.reshape(-1))
    for buffer, right in zip(got[2:], expected.buffers, strict=True):
        same &= np.array_equal(buffer.reshape(shape)[:, :, : expected.count], right[:, :, : expected.count])
    return bool(same)


def measure(gpu: Gpu, library: Kernels, geometry: Geometry, rows: int, repeats: int) -> list[Timing]:
    """Measures the kernel and the copy that it is compared with."""
    timings = []
    rng = np.random.default_rng(1)
    for in_place in (True, False):
        prompt, flushed = Prompt(gpu, geometry, rows, in_place), gpu.allocate(FLUSH_BYTES)
        source, destination = (gpu.allocate(geometry.kept_bytes(rows)) for _ in range(2))
        tensors = prompt.tensors()

        def median_ms(work: Callable[[], None], flushed: int = flushed) -> float:
            spent = []
            for _ in range(repeats + 1):  # the first run loads the kernel
                gpu.fill(flushed, FLUSH_BYTES)
                spent.append(gpu.milliseconds(work))
            return statistics.median(spent[1:])

        for share in KEPT_SHARES:
            mask = rng.permutation(rows) < round(share * rows)
            gpu.write(prompt.keep, mask.astype(np.uint8))
            keep = Keep(prompt.keep, KeepForm.MASK_BYTES, rows)
            nbytes = geometry.kept_bytes(int(mask.sum()))

            def compact(tensors: Sequence[Rows] = tensors, keep: Keep = keep, count: int = prompt.count) -> None:
                library.compact(tensors, keep, count, gpu.stream)

            def copy(to: int = destination, start: int = source, nbytes: int = nbytes) -> None:
                gpu.copy(to, start, nbytes)

            compact_ms, copy_ms = median_ms(compact), median_ms(copy)
            timings.append(Timing(share, in_place, nbytes / 1e6, compact_ms, copy_ms, copy_ms / compact_ms))
        gpu.free()
    return timings


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Checks and measures the compaction kernel on a GPU.")
    parser.add_argument("--rows", type=int, default=4096, help="rows of the prompt")
    parser.add_argument("--layers", type=int, default=24, help="layers whose caches are compacted")
    parser.add_argument("--kv-heads", type=int, default=2, help="heads of a cache")
    parser.add_argument("--width", type=int, default=128, help="columns of a cache's row, float16")
    parser.add_argument("--hidden", type=int, default=2048, help="columns of the hidden states, float32")
    parser.add_argument("--masks", type=int, default=MASKS, help="random masks to compare with numpy")
    parser.add_argument("--repeats", type=int, default=50, help="runs that a median is taken of")
    parser.add_argument("--library", type=Path, help="a library of nvcc's instead of what NVRTC compiles")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> int:
    """Runs everything and prints it."""
    asked = arguments()
    try:
        gpu = Gpu()
        library = gpu.kernel() if asked.library is None else CompactLibrary(asked.library)
    except (NoGpuError, BackendError) as error:
        print(f"This needs an NVIDIA GPU and the compaction kernel: {error}", file=sys.stderr)
        return NO_GPU
    geometry = Geometry(asked.layers, asked.kv_heads, asked.rows, asked.width, asked.hidden)
    with gpu:
        name, wrong = gpu.name, count_differences(gpu, library, asked.masks)
        timings = measure(gpu, library, geometry, asked.rows, asked.repeats)
    if asked.json:
        report = {"device": name, "masks": asked.masks, "wrong": wrong, "rows": asked.rows, **asdict(geometry)}
        print(json.dumps({**report, "timings": [asdict(timing) for timing in timings]}, indent=2))
    else:
        print(f"{name}: {asked.masks - wrong} of {asked.masks} random masks equal to numpy")
        print(
            f"{asked.rows} rows x {asked.layers} layers x {asked.kv_heads} KV heads; goal {GOAL} of the copy bandwidth"
        )
        print("kept  in place      MB  compact ms  copy ms  share")
        for t in timings:
            place = "yes" if t.in_place else "no"
            print(
                f"{t.kept_share:4.2f}  {place:>8}  {t.megabytes_kept:6.1f}  {t.compact_ms:10.4f}  {t.copy_ms:7.4f}"
                f"  {t.share_of_copy:5.2f}"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
