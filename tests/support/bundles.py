"""Exports of a model folder, and changed copies of the packaged bundle."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glimpse_export import ExportOptions

STAGES = ("embedding", "vision", "score", "text")
"""The stages of an export that hold weights, in the order in which they are built."""


def options(model: Path, **changes: Any) -> "ExportOptions":
    """An export of a model folder, without tokenizer and certificate where nothing else is said."""
    from glimpse_export import ExportOptions

    return ExportOptions(
        str(model / "base"), str(model / "adapter"), **{"tokenizer": False, "certify": "off", **changes}
    )


def work_of(out: Path) -> Path:
    """Where an export to ``out`` keeps its work."""
    return out.parent / f".{out.name}.work"


def begun_work(out: Path) -> Path:
    """The work folder that an interrupted export to ``out`` leaves, empty but for its mark."""
    from glimpse_export.write.work import MARK

    work = work_of(out)
    work.mkdir(mode=0o700)
    (work / MARK).touch()
    return work


def hashed(manifest: dict[str, Any]) -> str:
    """A changed manifest with the hash of its new content, as one who makes bundles writes it."""
    from glimpse_runtime.bundle.manifest import hash_of

    manifest = {key: value for key, value in manifest.items() if key != "sha256"}
    return json.dumps({**manifest, "sha256": hash_of(manifest)})


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Puts a changed manifest in its place."""
    (folder / "manifest.json").write_text(hashed(manifest))


def uncertified(place: Path) -> Path:
    """A copy of the packaged bundle without its certificate."""
    from glimpse_runtime.bundle.packaged import packaged_bundle

    shutil.copytree(packaged_bundle(), place)
    (place / "certificate.json").unlink()
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]["certificate.json"]
    write_manifest(place, manifest)
    return place
