"""Reads small files that somebody else may have made: regular ones only, and no more than they may hold."""

import os
import stat
from pathlib import Path

JSON_BYTES = 32 << 20
"""What a bundle's or checkpoint's JSON file may have at most: a certificate of a large model has a tenth of it."""


class NotRegularError(OSError):
    """A place holds no regular file: reading a pipe or a device may wait for ever, or never end."""


class TooLargeError(OSError):
    """A file is larger than what it is for can be."""


def read_small(path: Path, most_bytes: int = JSON_BYTES) -> bytes:
    """Returns the content of a regular file.

    Args:
        path: the file; links are followed.
        most_bytes: how much it may hold.

    Raises:
        NotRegularError: it is a pipe, a device or a socket.
        TooLargeError: it is larger.
        OSError: it cannot be read.
    """
    # Not blocking: opening a pipe would wait for its other end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotRegularError(None, "it is no regular file", str(path))
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise TooLargeError(None, f"it is larger than {most_bytes >> 20} MiB", str(path))
    return data


def read_small_text(path: Path, most_bytes: int = JSON_BYTES) -> str:
    """Returns the content of a regular file as text.

    Raises:
        OSError: see ``read_small``.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_small(path, most_bytes).decode("utf-8")
