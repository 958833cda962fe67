"""Whether a build fits into memory, before it starts: the system would end it half an hour later without a word.

TensorRT-RTX was measured on a CPU (docs/bundle/tensorrt.md); of full TensorRT and of the boards nothing was.
"""

from dataclasses import dataclass
from pathlib import Path

from glimpse_export.engines.build.prepare import read_graph
from glimpse_export.errors import BuildError
from glimpse_runtime.bundle.dialects import PLAIN
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.bundle.memory import CACHE_STAGES, ROWS_AT_ONCE, SPELLED_SCORE_BYTES
from glimpse_runtime.engines.flavours import Flavour
from glimpse_runtime.engines.gpu import Gpu

_MIB = 1 << 20
_INTEGERS = (3, 22)  # INT8 and INT4 in ONNX
_MEMINFO = Path("/proc/meminfo")

# Python, TensorRT and its tables; with a CUDA context, which is assumed to take as much again.
_PROCESS_BYTES = 400 * _MIB
_CONTEXT_BYTES = 400 * _MIB
# Copies of the weights as the builder arranges them; the file itself is mapped, and the system takes it back when it
# has to. A version that does not stream has the engine in memory as well, and is assumed to read the file whole.
_COPIES_STREAMED, _COPIES = 2.3, 4.3
# Integers are unpacked, one matrix after the other.
_UNPACKED_COPIES = 4
# On the GPU, while kernels are timed; with the largest scratch buffer, which is at least so large. Assumed.
_GPU_COPIES = 1.5
_SCRATCH_BYTES = 1 << 30
# Width of a head of the vision encoder where a family has but one.
_VISION_HEAD_DIM = 64


@dataclass(frozen=True)
class BuildMemory:
    """Memory that a build takes at most, estimated.

    Attributes:
        host_bytes: of the system, without mapped files.
        gpu_bytes: of the GPU, 0 where the build needs none. Where both share one memory, it is in ``host_bytes`` too.
    """

    host_bytes: int
    gpu_bytes: int


@dataclass(frozen=True)
class Weights:
    """Weights that a graph reads from files beside it.

    Attributes:
        total_bytes: all of them.
        largest_integer_bytes: the largest matrix of integers.
    """

    total_bytes: int
    largest_integer_bytes: int = 0


def scratch_bytes(manifest: Manifest, stage: str, dialect: str) -> int:
    """Bounds the scratch memory of an engine at the largest shapes of its profiles.

    Where attention is spelled out, all scores lie in memory as float32 and as fp16, if TensorRT fuses nothing of it.

    Args:
        manifest: the bundle's, with the ranges of all dimensions.
        stage: the stage's name.
        dialect: which of its graphs is built.
    """
    if dialect != PLAIN:
        return _SCRATCH_BYTES
    text, largest = manifest.text, {name: profile.max for name, profile in manifest.profiles.items()}
    scores = 0
    if stage == "vision":
        width = manifest.family.get("head_dim", _VISION_HEAD_DIM)
        scores = manifest.vision.hidden_size // width * largest["patches"] ** 2
    elif stage in CACHE_STAGES:
        scores = text.heads * min(largest["rows"], ROWS_AT_ONCE) * largest["context"]
    return max(_SCRATCH_BYTES, scores * SPELLED_SCORE_BYTES)


def build_memory(weights: Weights, flavour: Flavour, gpu: Gpu | None, scratch: int = _SCRATCH_BYTES) -> BuildMemory:
    """Estimates what building an engine with some weights takes; see ``scratch_bytes``."""
    copies = _COPIES_STREAMED if flavour.streams else _COPIES
    unpacked = _UNPACKED_COPIES * weights.largest_integer_bytes
    host = _PROCESS_BYTES + round(copies * weights.total_bytes) + unpacked
    if flavour.portable or gpu is None:
        return BuildMemory(host, 0)
    on_gpu = _CONTEXT_BYTES + round(_GPU_COPIES * weights.total_bytes) + scratch
    return BuildMemory(host + on_gpu if gpu.is_integrated else host + _CONTEXT_BYTES, on_gpu)


def read_weights(graph: Path) -> Weights:
    """Adds up the weights that a graph reads; what several of its tensors share counts once."""
    sizes: dict[tuple[str, str], int] = {}
    largest_integer = 0
    for tensor in read_graph(graph).graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if "length" not in where:
            continue
        length = int(where["length"])
        sizes[where["location"], where.get("offset", "0")] = length
        if tensor.data_type in _INTEGERS:
            largest_integer = max(largest_integer, length)
    return Weights(sum(sizes.values()), largest_integer)


def available_bytes() -> int | None:
    """Returns the memory a new process can have, swap included; None where the system does not tell."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    entries = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    found = [int(entries[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree") if name in entries]
    return sum(found) if "MemAvailable" in entries else None


def require_memory(stage: str, needed: BuildMemory, host_bytes: int | None, gpu: Gpu | None) -> None:
    """Raises a BuildError with advice when a build would not fit.

    Args:
        stage: the stage to build.
        needed: what it takes.
        host_bytes: memory there is for it; None is not known and refuses nothing.
        gpu: the GPU, whose memory counts where it is its own.
    """
    short = None
    if host_bytes is not None and needed.host_bytes > host_bytes:
        short = f"{_gib(needed.host_bytes)} of memory, there are {_gib(host_bytes)} with swap"
    elif gpu is not None and not gpu.is_integrated and needed.gpu_bytes > gpu.memory_bytes:
        short = f"{_gib(needed.gpu_bytes)} of GPU memory, {gpu.name} has {_gib(gpu.memory_bytes)}"
    if short is not None:
        raise BuildError(
            f"{stage}: building this engine would need about {short}. What helps: close other programs; add swap; "
            "export with --precision int4, with --head-parts 2, or with a smaller --max-context and "
            "--max-visual-tokens. The need is an estimate: --budget SIZE says how much may be taken all the same."
        )


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
