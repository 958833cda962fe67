"""Content hashes of files: a large file is read once and its hash remembered while the file stays as it is.

Unchanged means the same inode, size, modification and change time: writing to a file or putting another in its place
changes one of them, also when the modification time is put back.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from glimpse_runtime.files.atomic import write_text
from glimpse_runtime.files.places import cache_folder, resolved

log = logging.getLogger("glimpse")

# Below this, hashing again takes less time than looking it up is worth.
REMEMBERED_FROM_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


class FileChangesError(OSError):
    """A file was written to while it was read, so it has no hash."""


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path, announce: Callable[[str], None] | None = None, anew: bool = False) -> str:
    """Returns the SHA-256 of a file, read only if it is small or not known as it is now.

    Args:
        path: the file; through a link, what it leads to is meant.
        announce: called with a line of text before a large file is read.
        anew: read it whatever is remembered.

    Raises:
        OSError: it cannot be read; ``FileChangesError`` where it was written to meanwhile.
    """
    real = resolved(path)
    before = _state(real)
    if before["bytes"] < REMEMBERED_FROM_BYTES:
        return sha256_of(real)
    known = None if anew else _remembered(real, before)
    if known is not None:
        return known
    if announce is not None:
        announce(f"hashing {path.name}")
    found = sha256_of(real)
    if _state(real) != before:
        raise FileChangesError(None, "it changes while it is read", str(path))
    _remember(real, before, found)
    return found


def remember_sha256(path: Path, sha256: str) -> None:
    """Remembers the hash of a file that was just written and hashed meanwhile; a small one needs none."""
    real = resolved(path)
    state = _state(real)
    if state["bytes"] >= REMEMBERED_FROM_BYTES:
        _remember(real, state, sha256)


def _state(path: Path) -> dict[str, int]:
    """What changes when a file is written to or replaced."""
    found = path.stat()
    return {"inode": found.st_ino, "bytes": found.st_size, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}


def _mark(path: Path) -> Path:
    """Where the hash of a file is remembered."""
    return cache_folder() / "hashed" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _remembered(path: Path, state: dict[str, int]) -> str | None:
    with suppress(OSError, ValueError):
        record = json.loads(_mark(path).read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("state") == state and isinstance(record.get("sha256"), str):
            return str(record["sha256"])
    return None


def _remember(path: Path, state: dict[str, int], sha256: str) -> None:
    try:
        mark = _mark(path)
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, json.dumps({"state": state, "sha256": sha256}))
    except OSError as error:
        log.debug("cannot remember the hash of %s: %s", path, error)
