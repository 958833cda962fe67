"""The precisions a stage can be written in, and which stage gets which."""

from dataclasses import dataclass, fields

from glimpse_export.errors import UnsupportedError

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
CACHE_PRECISIONS = ("fp32", "fp16", "bf16")
DEFAULT_PRECISION = "fp32"
STORED_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INTEGER = ("int8", "int4")
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
# What the KV cache is stored in, by the precision of the whole, where it is not float32.
_CACHES = {"fp16": "fp16"}
_GPU_CACHES = {"fp16": "fp16", "bf16": "bf16", "int8": "fp16", "int4": "fp16"}


@dataclass(frozen=True)
class Precision:
    """What every part of a bundle is written in.

    The scorer is always fp32: the keep decision must not depend on how the rest was rounded.

    Attributes:
        vision: matrices of the vision encoder.
        lower: matrices of the decoder layers 0..K.
        lower_attention: those of their attention, by default int8 where ``lower`` is int4 and else the same.
        upper: matrices of the layers behind K.
        head: the LM head.
        kv_cache: keys and values of past tokens.
    """

    vision: str = DEFAULT_PRECISION
    lower: str = DEFAULT_PRECISION
    lower_attention: str = DEFAULT_PRECISION
    upper: str = DEFAULT_PRECISION
    head: str = DEFAULT_PRECISION
    kv_cache: str = DEFAULT_PRECISION

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Returns the names of the parts."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def choose(cls, whole: str | None, gpu: bool = False, **parts: str | None) -> "Precision":
        """Returns the precision of every part.

        Args:
            whole: one name for the whole model; None is fp32. With int4 the vision encoder gets int8: in four bits
                its features lose what the scorer reads. So does the attention of layers 0..K, where these get int4: the
                scorer reads it, and little else decides what is kept.
            gpu: for GPUs alone, whose attention kernels take half precision: the KV cache is fp32 only where all is.
                Elsewhere it is fp16 where all is, and fp32 otherwise.
            parts: a name for a part, which counts before ``whole``; None leaves it.

        Raises:
            UnsupportedError: a name or part is not known.
        """
        base = whole or DEFAULT_PRECISION
        chosen = dict.fromkeys(cls.parts(), base)
        chosen["vision"] = "int8" if base == "int4" else base
        chosen["kv_cache"] = (_GPU_CACHES if gpu else _CACHES).get(base, DEFAULT_PRECISION)
        for part, name in parts.items():
            if part not in chosen:
                raise UnsupportedError(f"no part {part!r} has a precision of its own; parts: {', '.join(chosen)}")
            chosen[part] = name or chosen[part]
        if not parts.get("lower_attention"):
            chosen["lower_attention"] = "int8" if chosen["lower"] == "int4" else chosen["lower"]
        for part, name in {"precision": base, **chosen}.items():
            known = CACHE_PRECISIONS if part == "kv_cache" else PRECISIONS
            if name not in known:
                raise UnsupportedError(f"unknown precision {name!r} for {part}; choose one of: {', '.join(known)}")
        return cls(**chosen)


def coarsest(*names: str) -> str:
    """Returns the precision of the fewest bits."""
    return min(names, key=BITS.__getitem__)


def lower_part(tensor: str) -> str:
    """Returns which part a matrix of the layers 0..K belongs to, by its name in the checkpoint."""
    return "lower_attention" if ".self_attn." in tensor else "lower"
