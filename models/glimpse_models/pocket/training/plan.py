"""The training plan: which phases run in which order, on which image sizes, for how many steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from glimpse_models.pocket.training.data import BatchSpec

Objective = Literal["vision", "answers", "glimpse", "plus", "prepruned"]
Size = tuple[int, int, int]
"""Height and width in pixels, and images per worker and step."""


@dataclass(frozen=True)
class Part:
    """Steps that go round some image sizes."""

    sizes: tuple[Size, ...]
    steps: int


@dataclass(frozen=True)
class Phase:
    """One objective with one learning-rate schedule.

    Attributes:
        name: Used in logs and on the command line.
        objective: What is learnt.
        parts: Image sizes and steps, in order.
        muon_rate: Peak learning rate of the matrices.
        adam_rate: Peak learning rate of everything else.
        warmup: Steps of linear warm-up.
        decay: Share of the steps over which the rate falls to 2 %.
        few: Share of scenes with few objects at the start.
        few_end: Share of the steps after which there are none of them any more.
        lettered: Share of scenes with much to read.
    """

    name: str
    objective: Objective
    parts: tuple[Part, ...]
    muon_rate: float
    adam_rate: float
    warmup: int
    decay: float
    few: float = 0.0
    few_end: float = 1.0
    lettered: float = 0.0

    @property
    def steps(self) -> int:
        """Number of steps of the phase."""
        return sum(part.steps for part in self.parts)

    def specs(self) -> list[BatchSpec]:
        """Return the batch of every step."""
        sizes = [part.sizes[step % len(part.sizes)] for part in self.parts for step in range(part.steps)]
        horizon = max(1.0, self.few_end * self.steps)
        return [
            BatchSpec(height, width, images, max(0.0, self.few * (1 - step / horizon)), self.lettered)
            for step, (height, width, images) in enumerate(sizes)
        ]

    def with_steps(self, counts: tuple[int, ...]) -> Phase:
        """Return the phase with other step counts, one per part."""
        if len(counts) != len(self.parts):
            raise ValueError(f"phase {self.name!r} has {len(self.parts)} parts, not {len(counts)}")
        return replace(
            self, parts=tuple(replace(part, steps=count) for part, count in zip(self.parts, counts, strict=True))
        )


_MIXED: tuple[Size, ...] = (
    (448, 448, 4),
    (224, 224, 8),
    (336, 448, 4),
    (672, 672, 2),
    (448, 448, 4),
    (336, 336, 6),
    (560, 336, 4),
    (896, 896, 1),
    (448, 448, 4),
    (224, 448, 6),
)
_GLIMPSE: tuple[Size, ...] = (
    (448, 448, 4),
    (224, 224, 8),
    (672, 672, 2),
    (336, 448, 4),
    (448, 448, 4),
    (224, 224, 8),
    (560, 336, 4),
    (896, 896, 1),
)

PLAN = (
    Phase("vision", "vision", (Part(((224, 224, 8),), 2400),), 3e-3, 1.5e-3, warmup=40, decay=0.2, lettered=0.6),
    Phase(
        "answers",
        "answers",
        (Part(((224, 224, 8),), 1500), Part(_MIXED, 2600)),
        3e-3,
        1.5e-3,
        warmup=40,
        decay=0.65,
        few=0.7,
        few_end=0.2,
        lettered=0.3,
    ),
    Phase("glimpse", "glimpse", (Part(_GLIMPSE, 2200),), 3e-3, 3e-3, warmup=20, decay=0.6),
)
PLUS = Phase("plus", "plus", (Part(_GLIMPSE, 600),), 1e-3, 1e-3, warmup=20, decay=0.8)
"""Not part of the plan: ``train_plus`` runs it on a finished checkpoint."""
PREPRUNED = Phase("prepruned", "prepruned", (Part(_GLIMPSE, 360),), 1e-3, 1e-3, warmup=20, decay=0.9)
"""The same, for ``train_prepruned``."""

SMOKE = (
    Phase("vision", "vision", (Part(((112, 112, 2),), 4),), 3e-3, 1.5e-3, warmup=2, decay=0.2),
    Phase("answers", "answers", (Part(((112, 112, 2), (112, 224, 2)), 6),), 3e-3, 1.5e-3, warmup=2, decay=0.5),
    Phase("glimpse", "glimpse", (Part(((112, 112, 2),), 4),), 3e-3, 3e-3, warmup=2, decay=0.5),
)
