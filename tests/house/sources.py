"""The packages' modules and what they import, read from their syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.places import ROOT, SOURCE_ROOTS

PACKAGES = ("glimpse_runtime", "glimpse_export", "glimpse_models", "glimpse_plugins")


@dataclass(frozen=True)
class Arrow:
    """One module imports another.

    Attributes:
        source: the importing module.
        target: the imported one, or the library's name.
        late: inside a function, so that it happens when that runs.
        line: where.
    """

    source: str
    target: str
    late: bool
    line: int


@cache
def modules() -> dict[str, Path]:
    """Files by module name; a package has the name of its folder."""
    found = {}
    for root in SOURCE_ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            if parts[0] in PACKAGES:
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def arrows(module: str) -> tuple[Arrow, ...]:
    """What a module imports; what only type checkers see does not count."""
    return tuple(_imports(module, ast.parse(modules()[module].read_text(encoding="utf-8")), late=False))


def _imports(module: str, tree: ast.AST, late: bool) -> Iterator[Arrow]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (Arrow(module, alias.name, late, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself"
            yield from (
                Arrow(module, _target(node.module or "", alias.name), late, node.lineno) for alias in node.names
            )
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(module, node, late or inside)


def _target(module: str, name: str) -> str:
    """``from a import b`` means the module ``a.b`` where there is one."""
    return f"{module}.{name}" if f"{module}.{name}" in modules() else module
