"""The cache as a place to write to: what the system refuses becomes an error that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glimpse_export.errors import BuildError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes the folder of an engine; turns what goes wrong there within the block into a BuildError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BuildError(
            f"cannot write {error.filename or folder}: {error.strerror or error}; free some room, or name another "
            "folder for engines in GLIMPSE_CACHE"
        ) from None
