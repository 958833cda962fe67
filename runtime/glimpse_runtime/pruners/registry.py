"""The methods by name: those of this package, and those that installed packages add by an entry point."""

import importlib
from functools import cache

from glimpse_runtime.checked import shown
from glimpse_runtime.errors import PruningError
from glimpse_runtime.pruners.base import Pruner

GROUP = "glimpse_runtime.pruners"
"""Entry point group: the name is the method's, the object a ``Pruner``."""

BUILT_IN = (
    "glimpse",
    "glimpse-attention",
    "fastv",
    "sdtp",
    "dart",
    "divprune",
    "cdpruner",
    "visionzip",
    "covipal",
    "uniform",
    "random",
    "oracle",
)


def names() -> tuple[str, ...]:
    """Returns the names of all methods, the package's own first."""
    from importlib import metadata  # what only other packages need is not imported for everybody

    others = {point.name for point in metadata.entry_points(group=GROUP)}
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def find(name: str) -> Pruner:
    """Returns a method.

    Raises:
        PruningError: no method has this name, or the package that has it cannot be used.
    """
    if not isinstance(name, str):
        raise PruningError(f"a pruning method has a name, found {shown(name)}; there are {', '.join(names())}")
    return _find(name)


@cache
def _find(name: str) -> Pruner:
    if name in BUILT_IN:
        module = importlib.import_module(f"glimpse_runtime.pruners.methods.{name.replace('-', '_')}")
        own: Pruner = module.PRUNER
        return own
    from importlib import metadata

    for point in metadata.entry_points(group=GROUP, name=name):
        try:
            found = point.load()
        except Exception as error:
            raise PruningError(
                f"pruning method {name!r} of {point.value} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Pruner) or found.name != name:
            raise PruningError(f"pruning method {name!r}: {point.value} is not a Pruner of that name")
        return found
    raise PruningError(f"unknown pruning method {name!r}; there are {', '.join(names())}")


def table() -> str:
    """Returns all methods as a text table: name, where it acts, what it needs, source."""
    lines = [("method", "acts", "needs", "source")]
    for name in names():
        try:
            pruner = find(name)
        except PruningError as error:  # a broken package must not hide the others
            lines.append((name, "-", "-", str(error)))
            continue
        lines.append((name, pruner.place, ", ".join(pruner.needs) or "-", pruner.source))
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns[:-1]]
    padded = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)] for line in lines]
    return "\n".join("  ".join([*cells, line[-1]]) for cells, line in zip(padded, lines, strict=True))
