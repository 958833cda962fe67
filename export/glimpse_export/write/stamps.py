"""Stamps: one hash over everything that the bytes of a stage depend on."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from glimpse_runtime._version import __version__
from glimpse_runtime.bundle.bundle import sha256_of
from glimpse_runtime.bundle.manifest import FileSpec

# Folders of this package whose modules write weights and graphs.
WRITERS = ("", "graphs", "graphs/dialects")
_PACKAGE = Path(__file__).parent


def stamp_of(stage: str, facts: Mapping[str, Any]) -> str:
    """Returns the stamp of a stage; ``facts`` must be plain JSON values and name no place on this machine."""
    text = json.dumps({"stage": stage, "glimpse-edge": __version__, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def exporter_code() -> str:
    """Returns a hash of the modules that write weights and graphs, so that a changed one is never mixed with old work.

    Other subpackages look at what these have written.
    """
    return code_of(*WRITERS)


@cache
def code_of(*folders: str) -> str:
    """Returns a hash of the modules directly in some folders of this package."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (_PACKAGE / folder).glob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def file_spec(path: Path) -> FileSpec:
    """Returns size and hash of a file."""
    return FileSpec(path.stat().st_size, sha256_of(path))
