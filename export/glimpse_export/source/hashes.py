"""Content hashes of a model's files, remembered as long as the files stay as they are.

A checkpoint has gigabytes, so it is read through once and not for every export. What a hub client calls its files is
not taken for their hash: a download may have gone wrong, and a wrong name is a reason to refuse the file.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from glimpse_export.errors import CheckpointError
from glimpse_runtime.bundle.bundle import cache_folder, sha256_of
from glimpse_runtime.files.atomic import write_text

log = logging.getLogger("glimpse")

# Below this, hashing again takes less time than looking it up is worth.
_REMEMBERED_FROM_BYTES = 8 << 20
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


def content_sha256(path: Path, progress: Callable[[str], None]) -> str:
    """Returns the SHA-256 of a source file.

    Args:
        path: the file; through a link, what it leads to is meant.
        progress: called with a line of text before a large file is read.

    Raises:
        CheckpointError: it cannot be read, changes while it is read, or comes from the hub's cache and is not what
            the hub has.
    """
    try:
        real = path.resolve()
        state = _state(real)
        mark = cache_folder() / "hashed" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
        large = real.stat().st_size >= _REMEMBERED_FROM_BYTES
        known = _remembered(mark, state) if large else None
        if known is not None:
            return known
        if large:
            progress(f"hashing {path.name}")
        found = sha256_of(real)
        if _state(real) != state:
            raise CheckpointError(f"{path} changes while it is read; run again when it is complete")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if real.parent.name == "blobs" and _BLOB_NAME.fullmatch(real.name) and real.name != found:
        raise CheckpointError(f"{path} is damaged: it is not what the hub has; delete {real} and download it again")
    if large:
        _remember(mark, state, found)
    return found


def _state(path: Path) -> list[int]:
    """What changes when a file is written to or replaced."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _remembered(mark: Path, state: list[int]) -> str | None:
    with suppress(OSError, ValueError):
        record = json.loads(mark.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("state") == state and isinstance(record.get("sha256"), str):
            return str(record["sha256"])
    return None


def _remember(mark: Path, state: list[int], sha256: str) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, json.dumps({"state": state, "sha256": sha256}))
    except OSError as error:
        log.debug("cannot remember a hash in %s: %s", mark, error)
