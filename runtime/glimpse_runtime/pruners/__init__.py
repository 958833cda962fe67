"""Pruning methods: a small file each, found by name, open to other packages."""

from glimpse_runtime.pruners.base import BEFORE, SPLIT, Pruner, PrunerInput, method_of, weights_file
from glimpse_runtime.pruners.registry import BUILT_IN, GROUP, find, names, table

__all__ = [
    "BEFORE",
    "BUILT_IN",
    "GROUP",
    "SPLIT",
    "Pruner",
    "PrunerInput",
    "find",
    "method_of",
    "names",
    "table",
    "weights_file",
]
