"""What a user may ask of building engines."""

from dataclasses import dataclass

from glimpse_export.planning.boards import Budget


@dataclass(frozen=True)
class BuildOptions:
    """How the engines of a bundle are built.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        dialect: which of the bundle's dialects; None is the best that this TensorRT imports.
        plugin: True insists on the plugin for compaction, False leaves it to the function in the graph; None takes the
            plugin where it can be compiled.
        budget: memory that a build may take; None is what is free.
        force: True builds again what is there.
    """

    target: str
    dialect: str | None = None
    plugin: bool | None = None
    budget: Budget | None = None
    force: bool = False
