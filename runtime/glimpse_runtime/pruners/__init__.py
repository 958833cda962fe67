"""Pruning methods: a small file each, found by name, open to other packages."""

from glimpse_runtime.pruners.base import BEFORE, SPLIT, Pruner, PrunerInput, weights_file
from glimpse_runtime.pruners.registry import GROUP, find, names, table

__all__ = ["BEFORE", "GROUP", "SPLIT", "Pruner", "PrunerInput", "find", "names", "table", "weights_file"]
