"""The place a bundle is written to: what may be replaced, and a folder that appears whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glimpse_export.errors import OutputError
from glimpse_runtime.manifest import MANIFEST_NAME


def checked_output(out: Path, force: bool) -> Path:
    """Returns the folder to write, links resolved.

    Args:
        out: what the user asked for: nothing yet, an empty folder, or a bundle to replace.
        force: whether a bundle may be replaced.

    Raises:
        OutputError: something else is there, or its parent folder is not.
    """
    try:
        place = out.resolve()
        if not place.parent.is_dir():
            raise OutputError(f"cannot write {out}: the folder {place.parent} does not exist")
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return place
        stranger = _stranger(place)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        raise OutputError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from None
    if stranger is not None:
        raise OutputError(f"{out} exists and is not a bundle ({stranger}); choose another --out, nothing was changed")
    if not force:
        raise OutputError(f"{out} is a bundle already; replace it with --force or choose another --out")
    return place


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
    if not isinstance(manifest, dict) or not {"format_version", "stages"} <= manifest.keys():
        return f"its {MANIFEST_NAME} is not a bundle's"
    files = manifest.get("files")
    listed = {MANIFEST_NAME, *(files if isinstance(files, dict) else ())}
    for path in sorted(place.iterdir()):
        if path.name not in listed or not path.is_file():
            return f"it also holds {path.name}"
    return None


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Gives a temporary folder beside ``out`` and renames it there when the block ends without an error.

    Raises:
        OutputError: a file cannot be written; what was at ``out`` is still there.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot write beside {out}: {error.strerror}") from None
    try:
        yield folder
        for path in folder.iterdir():
            _sync(path)
        folder.chmod(0o755)
        _put_in_place(folder, out)
        _sync(out.parent)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, out: Path) -> None:
    """Renames a folder to ``out``; what was there is gone only when that is done, and put back when it fails."""
    if not out.exists():
        folder.replace(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    old = aside / out.name
    try:
        out.replace(old)
        try:
            folder.replace(out)
        except BaseException:
            _put_back(old, out)
            raise
    finally:
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    try:
        old.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}; the bundle that was there lies in {old}") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
