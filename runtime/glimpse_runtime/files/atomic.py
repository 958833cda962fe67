"""Write a file so that it is there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` and renames it to ``path`` when the block ends without an error."""
    name = path.parent / f".{path.name}.tmp-{secrets.token_hex(8)}"
    try:
        # Made by open, not by mkstemp, so that the file gets the permissions that the process's umask leaves.
        with name.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces the content of ``path`` by ``text`` in one step."""
    with open_atomic(path) as file:
        file.write(text.encode())
