"""The precisions a stage can be written in, and which stage gets which."""

from dataclasses import dataclass, fields

from glimpse_export.errors import UnsupportedError

DEFAULT_PRECISION = "fp32"


@dataclass(frozen=True)
class Kind:
    """One precision.

    Attributes:
        name: its name.
        bits: of one stored number.
        dtype: what is stored; None for integers in blocks, with a scale each.
        cache: what the KV cache is stored in where the whole model has this precision.
        gpu_cache: the same for GPUs alone.
    """

    name: str
    bits: int
    dtype: str | None
    cache: str = DEFAULT_PRECISION
    gpu_cache: str = "fp16"


KINDS = {
    kind.name: kind
    for kind in (
        Kind(DEFAULT_PRECISION, 32, "float32", gpu_cache=DEFAULT_PRECISION),
        Kind("fp16", 16, "float16", cache="fp16"),
        Kind("bf16", 16, "bfloat16", gpu_cache="bf16"),
        Kind("int8", 8, None),
        Kind("int4", 4, None),
    )
}
PRECISIONS = tuple(KINDS)
STORED_DTYPES = {name: kind.dtype for name, kind in KINDS.items() if kind.dtype is not None}
CACHE_PRECISIONS = tuple(STORED_DTYPES)
INTEGER = tuple(name for name, kind in KINDS.items() if kind.dtype is None)


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
        if base in KINDS:
            chosen["kv_cache"] = KINDS[base].gpu_cache if gpu else KINDS[base].cache
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
    return min(names, key=lambda name: KINDS[name].bits)


def lower_part(tensor: str) -> str:
    """Returns which part a matrix of the layers 0..K belongs to, by its name in the checkpoint."""
    return "lower_attention" if ".self_attn." in tensor else "lower"
