"""The work folder beside a bundle: what an export has finished stays there until the bundle is in its place.

.NAME.work/
    lock                    held by the export that works here
    glimpse-export          says that glimpse-export has made the folder: one without it is never touched
    vision-0123456789abcdef one folder for each stage, named by its stamp
    bundle                  the bundle while it is put together, from hard links to the stages' files
    old                     the bundle that is being replaced
    forced                  everything here was begun after --force
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from glimpse_export.errors import OutputError
from glimpse_runtime.files.lock import LOCK_NAME, locked

MARK = "glimpse-export"
_STAGE = re.compile(r"[a-z_]+-[0-9a-f]{16}")


def stage_folder(work: Path, name: str, stamp: str) -> Path:
    """Returns the folder of a stage."""
    return work / f"{name}-{stamp[:16]}"


class WorkFolder:
    """The work folder of a bundle, locked.

    Attributes:
        place: where the bundle goes.
        path: the work folder.
    """

    def __init__(self, place: Path) -> None:
        """Names the folder; ``opened`` makes it."""
        self.place = place
        self.path = place.parent / f".{place.name}.work"
        self._bundle, self._old, self._forced = (self.path / name for name in ("bundle", "old", "forced"))

    @classmethod
    @contextmanager
    def opened(cls, place: Path) -> Iterator["WorkFolder"]:
        """Makes the folder, or takes up what an interrupted export has left, for the length of the block.

        Raises:
            OutputError: another export works there.
        """
        work = cls(place)
        work._require_own()
        with locked(work.path) as mine:
            if not mine:
                raise OutputError(f"another export into {place} is running; wait for it or choose another --out")
            (work.path / MARK).touch()
            try:
                work._undo_half_a_replacement()
                yield work
            finally:
                if not work._stages() and not work._old.exists():
                    work._remove_frame()

    def start_over(self) -> None:
        """Removes what earlier exports have left, unless they too began from nothing because of ``--force``."""
        if self._forced.exists():
            return
        for folder in self._stages():
            shutil.rmtree(folder)
        self._forced.touch()
        sync(self.path)

    def keep_only(self, stamps: Mapping[str, str]) -> None:
        """Removes the stages of exports with other stamps, to make room."""
        wanted = {stage_folder(self.path, name, stamp) for name, stamp in stamps.items()}
        for folder in self._stages():
            if folder not in wanted:
                shutil.rmtree(folder)

    def assemble(self, paths: Mapping[str, Path]) -> Path:
        """Returns a folder with all files of a bundle; they stay where they are as well."""
        shutil.rmtree(self._bundle, ignore_errors=True)
        self._bundle.mkdir()
        for path in paths.values():
            self.add(self._bundle, path)
        return self._bundle

    def add(self, bundle: Path, path: Path) -> None:
        """Puts a file of a finished stage into an assembled bundle as well."""
        try:
            (bundle / path.name).hardlink_to(path)
        except OSError:  # not every file system has links
            shutil.copy2(path, bundle / path.name)
            sync(bundle / path.name)

    def put_in_place(self, check: Callable[[Path], None]) -> None:
        """Renames the assembled bundle to its place and removes the work; a bundle that was there is replaced.

        Args:
            check: raises an OutputError where a folder is not what this export may replace. It is asked just before the
                folder is moved, and once more before it is deleted: hours may have passed since the export began.
        """
        sync(self._bundle)
        if self.place.exists():
            check(self.place)
            self.place.replace(self._old)
        try:
            if self._old.exists():
                check(self._old)
            self._bundle.replace(self.place)
        except BaseException:
            if self._old.exists():
                self._put_back()
            raise
        sync(self.place.parent)
        self.clear()

    def clear(self) -> None:
        """Removes all work; the bundle is in its place."""
        for folder in (self._old, self._bundle, *self._stages()):
            shutil.rmtree(folder, ignore_errors=True)

    def _require_own(self) -> None:
        """Refuses a folder of this name that is not glimpse-export's, or that others may have written to.

        Raises:
            OutputError: it is a link, belongs to somebody else, is open to others, or was made by something else.
        """
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        reason = None
        if not stat.S_ISDIR(found.st_mode):
            reason = "it is no folder"
        elif hasattr(os, "getuid") and found.st_uid != os.getuid():
            reason = "it belongs to another user"
        elif os.name != "nt" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            reason = "others may write to it"
        elif any(self.path.iterdir()) and not (self.path / MARK).is_file():
            reason = "glimpse-export has not made it"
        if reason is not None:
            raise OutputError(f"cannot work in {self.path}: {reason}; move it away or choose another --out")

    def _undo_half_a_replacement(self) -> None:
        if not self._old.exists():
            return
        if not self._bundle.exists():  # it is in its place already
            shutil.rmtree(self._old)
        elif self.place.exists():
            raise OutputError(
                f"an export into {self.place} was interrupted and something else was put there since; "
                f"the bundle that was there lies in {self._old}: move it away and run again"
            )
        else:
            self._put_back()

    def _put_back(self) -> None:
        try:
            self._old.replace(self.place)
        except OSError as error:
            raise OutputError(
                f"cannot write {self.place}: {error.strerror}; the bundle that was there lies in {self._old}"
            ) from None

    def _stages(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if path.is_dir() and _STAGE.fullmatch(path.name))

    def _remove_frame(self) -> None:
        """Removes the folder itself; what is not an export's stays, and the folder with it."""
        shutil.rmtree(self._bundle, ignore_errors=True)
        with suppress(OSError):
            for path in (self._forced, self.path / MARK, self.path / LOCK_NAME):
                path.unlink(missing_ok=True)
            self.path.rmdir()


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    if os.name == "nt":  # what is opened for reading cannot be synced there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
