"""Content hashes of files: a model's, and a bundle's.

What a hub client calls its files is not taken for their hash: a download may have gone wrong, and a wrong name is a
reason to refuse the file.
"""

import re
from collections.abc import Callable
from pathlib import Path

from glimpse_export.errors import CheckpointError
from glimpse_runtime.bundle.manifest import FileSpec
from glimpse_runtime.files.hashing import FileChangesError, remembered_sha256, sha256_of
from glimpse_runtime.files.places import resolved

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
        real = resolved(path)
        found = remembered_sha256(path, progress)
    except FileChangesError:
        raise CheckpointError(f"{path} changes while it is read; run again when it is complete") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if real.parent.name == "blobs" and _BLOB_NAME.fullmatch(real.name) and real.name != found:
        raise CheckpointError(f"{path} is damaged: it is not what the hub has; delete {real} and download it again")
    return found


def file_spec(path: Path) -> FileSpec:
    """Returns size and hash of a file."""
    return FileSpec(path.stat().st_size, sha256_of(path))
