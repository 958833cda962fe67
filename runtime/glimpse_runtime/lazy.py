"""Public names that are imported when first used, so that ``--help`` and light users pay for nothing else."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a module-level ``__getattr__`` (PEP 562).

    The package declares the same names under ``TYPE_CHECKING``, so type checkers see plain imports.

    Args:
        package: name of the package that offers the names.
        where: the module of each name.
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(where[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
