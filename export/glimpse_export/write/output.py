"""The place a bundle is written to: what may be there, and whether there is room."""

import json
import shutil
from pathlib import Path
from typing import Any

from glimpse_export.errors import OutputError
from glimpse_runtime.bundle.manifest import MANIFEST_NAME
from glimpse_runtime.files.reading import read_small_text

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
            raise OutputError(
                f"cannot write {out}: the folder {place.parent} does not exist; make it first, or choose another --out"
            )
        stranger = _stranger(place) if is_taken(place) else None
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {out}: {reason}; choose another --out") from None
    if stranger is not None:
        raise OutputError(f"{out} exists and is not a bundle ({stranger}); choose another --out, nothing was changed")
    return place


def is_taken(place: Path) -> bool:
    """Whether something is there already."""
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))


def require_replaceable(place: Path, folder: Path, force: bool) -> None:
    """Refuses to replace what this export may not: asked at the moment of the act.

    Args:
        place: where the bundle goes.
        folder: what lies there, or was moved away from there.
        force: whether a bundle may be replaced; an empty folder always may.

    Raises:
        OutputError: it is no bundle, holds something else too, or is a bundle that nobody asked to replace.
    """
    if not is_taken(folder):
        return
    stranger = _stranger(folder)
    if stranger is not None or not force:
        what = "a bundle" if stranger is None else f"something that is not a bundle ({stranger})"
        raise OutputError(
            f"while the export ran, {what} was put at {place}; it stays there. What was finished is kept: run again "
            "with another --out"
        )


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
        manifest = json.loads(read_small_text(place / MANIFEST_NAME))
    except FileNotFoundError:
        return f"it has no {MANIFEST_NAME}"
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not _is_bundles(manifest):
        return f"its {MANIFEST_NAME} is not a bundle's"
    listed = {MANIFEST_NAME, *manifest["files"]}
    for path in sorted(place.iterdir()):
        if path.name not in listed or not path.is_file():
            return f"it also holds {path.name}"
    return None


def _is_bundles(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is a bundle's of any version: all have these fields, and say size and hash of every file."""
    model, files = manifest.get("model"), manifest.get("files")
    if not isinstance(manifest.get("format_version"), int) or not isinstance(manifest.get("exporter"), str):
        return False
    if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not isinstance(files, dict):
        return False
    return bool(files) and all(isinstance(spec, dict) and {"bytes", "sha256"} <= spec.keys() for spec in files.values())
