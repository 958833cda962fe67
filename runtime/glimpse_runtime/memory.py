"""Run-time memory of a bundle as far as its manifest tells, before anything is loaded."""

import math

from glimpse_runtime.manifest import Manifest, TensorSpec

CACHE_STAGES = ("lower", "upper")
_PAST = "past."
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 8}


def memory_of_files(manifest: Manifest) -> dict[str, int]:
    """Returns the bytes of the weights and of the memory-mapped embedding table."""
    return {
        "weight_bytes": sum(spec.bytes for name, spec in manifest.files.items() if name.endswith(".data")),
        "embedding_bytes": manifest.files[manifest.embedding.file].bytes,
    }


def kv_cache_bytes(manifest: Manifest) -> int:
    """Returns the bytes of the KV caches of all layers at the longest context."""
    tensors = [tensor for stage in CACHE_STAGES for tensor in manifest.stages[stage].inputs]
    context = manifest.profiles["context"].max
    return sum(_bytes(tensor, context) for tensor in tensors if tensor.name.startswith(_PAST))


def _bytes(tensor: TensorSpec, context: int) -> int:
    lengths = [context if isinstance(dim, str) else dim for dim in tensor.shape]
    return math.prod(lengths) * ITEM_BYTES[tensor.dtype]
