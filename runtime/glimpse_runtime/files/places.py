"""Where things lie on this machine, and which names may be joined to a folder."""

import os
import tempfile
from pathlib import Path, PurePosixPath


def cache_folder() -> Path:
    """Returns ``$GLIMPSE_CACHE``, else ``$XDG_CACHE_HOME/glimpse``, else ``~/.cache/glimpse``.

    Where nobody knows a home folder it is a temporary one.
    """
    own = os.environ.get("GLIMPSE_CACHE")
    if own:
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    if home:
        return Path(home) / "glimpse"
    try:
        return Path.home() / ".cache" / "glimpse"
    except RuntimeError:  # neither HOME nor an entry for this user, as in some containers
        return Path(tempfile.gettempdir()) / f"glimpse-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def resolved(path: str | os.PathLike[str]) -> Path:
    """Returns a path with its links followed; one that leads to itself is left, and fails where it is opened."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError before Python 3.13


def is_plain_name(name: str) -> bool:
    """Whether a file's name, as text, leads to a place below the folder it is joined to."""
    pure = PurePosixPath(name)
    below = bool(pure.name) and not pure.is_absolute() and ".." not in pure.parts
    return below and "\\" not in name and "\0" not in name
