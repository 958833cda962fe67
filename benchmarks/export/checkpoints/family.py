"""What a model family says about its checkpoints; each has a package here, listed in ``families.py``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.export.checkpoints.draw import Recipe
from benchmarks.export.checkpoints.formats import Form, Shapes
from benchmarks.export.checkpoints.residual import Residual
from glimpse_export.model.architecture import Architecture
from glimpse_models import Dims


class Tower(Protocol):
    """How the weights of a vision encoder are drawn."""

    residual: Residual

    def recipe(self, name: str) -> Recipe:
        """Returns the recipe of one tensor."""
        ...


@dataclass(frozen=True)
class Words:
    """What the tokenizer gives out.

    Attributes:
        count: how many words; the embedding table may have more rows.
        marked: ids of those that carry massive activations.
    """

    count: int
    marked: Sequence[int]


@dataclass(frozen=True)
class Weights:
    """The weights of one folder.

    Attributes:
        form: how they are stored.
        shapes: name and shape of every tensor, in order.
        always_index: a single file has an index, too.
    """

    form: Form
    shapes: Shapes
    always_index: bool = True


@dataclass(frozen=True)
class CheckpointFamily:
    """One family.

    Attributes:
        files: returns the small files by their place in the checkpoint: JSON, or bytes.
        words: tells what the tokenizer gives out.
        weights: returns the weights by folder.
        tower: returns the vision encoder, given the seed of its weights.
        cut_vision: returns dims with a vision encoder of so many blocks.
        tower_folder: where the vision tower lies if not in ``base``.
    """

    files: Callable[[Any], Mapping[str, Mapping[str, Any] | bytes]]
    words: Callable[[Any], Words]
    weights: Callable[[Architecture], Mapping[str, Weights]]
    tower: Callable[[Architecture, int], Tower]
    cut_vision: Callable[[Any, int], Dims]
    tower_folder: str | None = None
