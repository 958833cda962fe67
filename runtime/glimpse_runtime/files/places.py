"""Where things lie on this machine, and which names may be joined to a folder."""

import os
from pathlib import Path, PurePosixPath


def cache_folder() -> Path:
    """Returns ``$GLIMPSE_CACHE``, else ``$XDG_CACHE_HOME/glimpse``, else ``~/.cache/glimpse``."""
    own = os.environ.get("GLIMPSE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimpse"


def is_plain_name(name: str) -> bool:
    """Whether a file's name, as text, leads to a place below the folder it is joined to."""
    pure = PurePosixPath(name)
    below = bool(pure.name) and not pure.is_absolute() and ".." not in pure.parts
    return below and "\\" not in name and "\0" not in name
