"""What a figure may be, by precision: the one table; docs/bundle/certificate.md gives the reasons."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from glimpse_runtime.bundle.dialects import ORT


@dataclass(frozen=True)
class Bounds:
    """The largest relative L2 errors that a precision may cause; None is measured, and not held against anything.

    Attributes:
        graph: of one layer's own contribution, against the same computation with the stored weights.
        layer: of one layer's own contribution as the runtime computes it, against the original weights.
        vision: of image embeddings and taps, errors of all blocks together.
        hidden: of the hidden states after layer K.
        attention: of the glimpse's attention map.
        score: of the scorer's logits.
        logits: of the answer's logits.
    """

    graph: float
    layer: float
    vision: float
    hidden: float | None
    attention: float | None
    score: float | None
    logits: float | None


BOUNDS: Mapping[str, Bounds] = {
    "fp32": Bounds(1e-4, 1e-4, vision=1e-3, hidden=1e-3, attention=1e-3, score=1e-3, logits=1e-3),
    "fp16": Bounds(1e-2, 1e-2, vision=2e-2, hidden=5e-2, attention=1e-1, score=1e-1, logits=1e-1),
    "bf16": Bounds(1e-4, 1e-2, vision=5e-2, hidden=5e-2, attention=1e-1, score=1e-1, logits=1e-1),
    "int8": Bounds(1e-4, 5e-2, vision=2e-1, hidden=1.5e-1, attention=2.5e-1, score=4e-1, logits=3e-1),
    "int4": Bounds(1e-4, 4e-1, vision=8e-1, hidden=8e-1, attention=None, score=None, logits=None),
}


# Where products are computed in the type of the matrices, and integers are multiplied in fp16.
NATIVE: Mapping[str, Bounds] = {
    **BOUNDS,
    "bf16": replace(BOUNDS["bf16"], graph=1e-1, layer=1e-1),
    "int8": replace(BOUNDS["int8"], graph=BOUNDS["fp16"].graph),
    "int4": replace(BOUNDS["int4"], graph=BOUNDS["fp16"].graph),
}


def bounds_for(dialect: str, *precisions: str) -> Bounds:
    """Returns the bounds of a figure that several precisions have a part in; the loosest count."""
    table = BOUNDS if dialect == ORT else NATIVE
    parts = [table[name] for name in precisions]

    def widest(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else max(values)

    return Bounds(**{field.name: widest(field.name) for field in fields(Bounds)})
