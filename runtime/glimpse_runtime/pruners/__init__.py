"""Pruning methods: a small file each, found by name, open to other packages."""

from glimpse_runtime.pruners.base import BEFORE, SPLIT, Pruner, PrunerInput, weights_file
from glimpse_runtime.pruners.registry import BUILT_IN, GROUP, find, names, table

__all__ = ["BEFORE", "BUILT_IN", "GROUP", "SPLIT", "Pruner", "PrunerInput", "find", "names", "table", "weights_file"]
