"""The place a bundle is written to: what may be there, and whether there is room."""

import json
import shutil
from pathlib import Path

from glimpse_export.errors import OutputError
from glimpse_runtime.bundle.manifest import MANIFEST_NAME

# Graphs, tokenizer, records and journals beside the weights.
_OTHER_FILES_BYTES = 32 << 20


def checked_output(out: Path) -> Path:
    """Returns the folder to write, links resolved.

    Args:
        out: what the user asked for: nothing yet, an empty folder, or a bundle.

    Raises:
        OutputError: something else is there, or its parent folder is not.
    """
    try:
        place = out.resolve()
        if not place.parent.is_dir():
            raise OutputError(f"cannot write {out}: the folder {place.parent} does not exist")
        stranger = _stranger(place) if is_taken(place) else None
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        raise OutputError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from None
    if stranger is not None:
        raise OutputError(f"{out} exists and is not a bundle ({stranger}); choose another --out, nothing was changed")
    return place


def is_taken(place: Path) -> bool:
    """Whether something is there already."""
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))


def missing_bytes(place: Path, work: dict[Path, int]) -> int:
    """Returns how much room the disk lacks.

    Args:
        place: where the bundle goes.
        work: size of every file of weights when it is complete; what is there already needs no more room.
    """
    needed = _OTHER_FILES_BYTES
    for path, nbytes in work.items():
        needed += max(nbytes - (path.stat().st_size if path.exists() else 0), 0)
    return max(needed - shutil.disk_usage(place.parent).free, 0)


def _stranger(place: Path) -> str | None:
    """Says why a place is not a bundle and nothing but a bundle; None when it is."""
    if not place.is_dir():
        return "it is no folder"
    try:
        manifest = json.loads((place / MANIFEST_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {MANIFEST_NAME}"
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"format_version", "files"} <= manifest.keys():
        return f"its {MANIFEST_NAME} is not a bundle's"
    files = manifest.get("files")
    listed = {MANIFEST_NAME, *(files if isinstance(files, dict) else ())}
    for path in sorted(place.iterdir()):
        if path.name not in listed or not path.is_file():
            return f"it also holds {path.name}"
    return None
