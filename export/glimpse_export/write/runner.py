"""Runs the stages of an export: what an earlier run has finished is taken over, the rest is built and recorded."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from glimpse_export.source.hashes import file_spec
from glimpse_export.write.work import stage_folder, sync
from glimpse_runtime.bundle.manifest import FileSpec
from glimpse_runtime.files.atomic import write_text

_RECORD = "finished.json"

Build = Callable[[Path], Mapping[str, FileSpec]]


class StageRunner:
    """Builds stages in a work folder.

    Attributes:
        paths: where every file of the finished stages lies, by its name in the bundle.
        files: size and hash of these files.
        built: the stages built by this run.
        taken_over: the stages that an earlier run had finished.
    """

    def __init__(self, work: Path, progress: Callable[[str], None]) -> None:
        """Prepares; ``progress`` is called with a line of text for each stage."""
        self._work = work
        self._progress = progress
        self.paths: dict[str, Path] = {}
        self.files: dict[str, FileSpec] = {}
        self.built: list[str] = []
        self.taken_over: list[str] = []

    def run(self, name: str, stamp: str, build: Build) -> None:
        """Takes a stage over, or builds it.

        Args:
            name: the stage's name.
            stamp: the hash of everything its bytes depend on.
            build: writes the stage's files into a folder and returns them; the folder may hold what an earlier,
                interrupted call has left.
        """
        folder = stage_folder(self._work, name, stamp)
        files = _finished(folder, stamp)
        if files is not None:
            self._progress(f"{name}: taken over from an earlier run")
            self.taken_over.append(name)
        else:
            if (folder / _RECORD).exists():
                # Finished and then damaged: nothing in it can be trusted.
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
            self._progress(f"{name}: writing")
            files = dict(build(folder))
            _record(folder, stamp, files)
            self.built.append(name)
        self.files |= files
        self.paths |= {file: folder / file for file in files}


def _record(folder: Path, stamp: str, files: Mapping[str, FileSpec]) -> None:
    """Says that a stage is finished, once that cannot be lost any more."""
    for name in files:
        sync(folder / name)
    data = {"stamp": stamp, "files": {name: dataclasses.asdict(spec) for name, spec in files.items()}}
    write_text(folder / _RECORD, json.dumps(data, indent=2) + "\n")
    sync(folder)


def _finished(folder: Path, stamp: str) -> dict[str, FileSpec] | None:
    """Returns the files of a finished stage, None when it is not finished or damaged.

    Contents are hashed: interruptions are rare, and reading is fast beside building.
    """
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        files = {name: FileSpec(**spec) for name, spec in record["files"].items()}
        whole = record["stamp"] == stamp and all(file_spec(folder / name) == spec for name, spec in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if whole else None
