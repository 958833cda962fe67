"""A lock on a folder that the operating system releases when its holder ends, however it ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Creates a folder and locks it for the length of the block; gives False when another process holds it."""
    handle = _open(folder)
    while handle is not None and not _is_current(handle, folder):
        # The holder before us has removed the folder with its lock.
        os.close(handle)
        handle = _open(folder)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _open(folder: Path) -> int | None:
    """Returns a locked file, None when it is locked already."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            break
        except FileNotFoundError:
            continue
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is_current(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), (folder / LOCK_NAME).stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
