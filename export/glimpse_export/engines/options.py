"""What a user may ask of building engines."""

from dataclasses import dataclass

from glimpse_export.boards import Budget


@dataclass(frozen=True)
class BuildOptions:
    """How the engines of a bundle are built.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        dialect: which of the bundle's dialects; None is the best that this TensorRT imports.
        plugin: False leaves compaction to the function in the graph.
        budget: memory that a build may take; None is what is free.
        force: True builds again what is there.
    """

    target: str
    dialect: str | None = None
    plugin: bool = True
    budget: Budget | None = None
    force: bool = False
