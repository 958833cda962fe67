"""Stamps: one hash over everything that the bytes of a stage depend on."""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from glimpse_runtime._version import __version__

# Rooms of this package whose modules decide what weights and graphs consist of.
WRITERS = ("model", "source", "weights", "graphs")
_STAGES = "write/stages.py"
_CERTIFIER = "certify"
_PACKAGE = Path(__file__).parents[1]


def stamp_of(stage: str, facts: Mapping[str, Any]) -> str:
    """Returns the stamp of a stage; ``facts`` must be plain JSON values and name no place on this machine."""
    text = json.dumps({"stage": stage, "glimpse-edge": __version__, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def writers_code(family: object) -> str:
    """Returns a hash of the code that writes weights and graphs, so that a changed one is never mixed with old work.

    Args:
        family: the family's heavy half, whose folder counts too.
    """
    rooms = [path for room in WRITERS for path in sorted((_PACKAGE / room).rglob("*.py"))]
    return code_of((*rooms, _PACKAGE / _STAGES, *_folder_of(family)))


def certifier_code(family: object) -> str:
    """Returns the same of the code that certifies."""
    return code_of((*sorted((_PACKAGE / _CERTIFIER).rglob("*.py")), *_folder_of(family)))


@cache
def code_of(paths: tuple[Path, ...]) -> str:
    """Returns a hash of what modules do: neither comments nor docstrings change it, nor where they lie."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\0{_meaning(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def _folder_of(family: object) -> tuple[Path, ...]:
    module = sys.modules[type(family).__module__]
    return tuple(sorted(Path(str(module.__file__)).parent.rglob("*.py")))


def _meaning(source: str) -> str:
    """Returns a module's syntax tree as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, False) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)
