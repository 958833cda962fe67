"""Run-time memory of a bundle as far as its manifest tells, before anything is loaded."""

import math
from collections.abc import Iterable

from glimpse_runtime.bundle.manifest import Manifest, TensorSpec

CACHE_STAGES = ("lower", "upper")
_PAST = "past."
DEFAULT_SCENE_CACHE_BYTES = 256 << 20
"""What a session keeps of the last images asked about, unless ``load`` is told otherwise."""
ROWS_AT_ONCE = 512
"""Prefill runs so many rows at a time at most: what attention and MLP need in between grows with it, speed does not."""
SPELLED_SCORE_BYTES = 4 + 2
"""Of one score in attention that ``plain`` spells out: as float32 before the softmax and as fp16 behind it."""
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 8}


def memory_of_files(manifest: Manifest) -> dict[str, int]:
    """Returns the bytes of the weights and of the memory-mapped embedding table."""
    return {
        "weight_bytes": sum(spec.bytes for name, spec in manifest.files.items() if name.endswith(".data")),
        "embedding_bytes": manifest.files[manifest.embedding.file].bytes,
    }


def kv_cache_bytes(manifest: Manifest) -> int:
    """Returns the bytes of the KV caches of all layers at the longest context, in the bundle's first dialect."""
    context = manifest.profiles["context"].max
    stages = manifest.stages_of(manifest.dialects[0])
    caches = [cache_buffers(stages[name].inputs, context) for name in CACHE_STAGES]
    return sum(math.prod(shape) * ITEM_BYTES[dtype] for buffers in caches for shape, dtype in buffers.values())


def cache_buffers(inputs: Iterable[TensorSpec], capacity: int) -> dict[str, tuple[list[int], str]]:
    """Returns shape and dtype of the KV cache's buffers by name, ``<layer>.key`` and ``<layer>.value``.

    Args:
        inputs: inputs of a graph, among them ``past.*``.
        capacity: rows the cache has memory for.
    """
    return {
        tensor.name[len(_PAST) :]: ([capacity if isinstance(dim, str) else dim for dim in tensor.shape], tensor.dtype)
        for tensor in inputs
        if tensor.name.startswith(_PAST)
    }
