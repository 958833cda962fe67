"""A bundle on disk: find it, check it, name its files."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glimpse_runtime.bundle.checks import check_values
from glimpse_runtime.bundle.embedding import EMBEDDING_DTYPES, EmbeddingTable, open_table
from glimpse_runtime.bundle.graph_files import weight_files
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest, require_unaltered
from glimpse_runtime.errors import BundleDamagedError, BundleFormatError, BundleNotFoundError
from glimpse_runtime.files.hashing import remember_sha256, remembered_sha256
from glimpse_runtime.files.places import is_plain_name, resolved
from glimpse_runtime.files.reading import read_small_text


@dataclass(frozen=True)
class Bundle:
    """A checked bundle folder.

    Attributes:
        folder: the absolute folder.
        manifest: its manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str], verify: bool = False, contents: bool = True) -> "Bundle":
        """Reads the manifest and checks the files.

        Sizes are checked always. Contents are hashed always for small files, and for large ones at the first use and
        again when the file has changed since.

        Args:
            folder: the bundle's folder.
            verify: hash every file even if that was done before.
            contents: False checks sizes alone, for whoever only wants to know what the bundle is.

        Raises:
            BundleNotFoundError: there is no bundle there.
            BundleFormatError: the manifest cannot be read by this version.
            BundleDamagedError: a file is missing, cut or altered.
        """
        root = Path(os.path.expanduser(folder))  # noqa: PTH111  (never fails)
        path = root / MANIFEST_NAME
        try:
            text = read_small_text(path)
        except (FileNotFoundError, NotADirectoryError):
            raise BundleNotFoundError(_not_found(root)) from None
        except UnicodeDecodeError:
            raise BundleFormatError(f"{path} is not UTF-8 text; export the model again") from None
        except (OSError, ValueError) as error:  # also a name that no file can have
            reason = getattr(error, "strerror", None) or error
            raise BundleNotFoundError(f"cannot read {path}: {reason}; name the bundle's folder") from None
        root = resolved(root)
        bundle = cls(root, Manifest.from_json(text, str(path)))
        check_values(bundle.manifest, str(path))
        bundle._check_names()
        bundle._check_sizes()
        require_unaltered(text, str(path))
        if contents or verify:
            bundle._check_contents(verify)
        return bundle

    def path(self, name: str) -> Path:
        """Returns the path of a file that the manifest lists."""
        return self.folder / name

    def embedding(self) -> EmbeddingTable:
        """Returns the memory-mapped token embedding table."""
        return open_table(self.path(self.manifest.embedding.file), self.manifest.embedding)

    def _is_inside(self, name: str) -> bool:
        target = resolved(self.folder / name)
        return any(target.is_relative_to(place) for place in (self.folder, *_blob_folders(self.folder)))

    def _way_out(self, name: str) -> str:
        """What to do about a file that is not in the folder: installations may consist of links to another one."""
        target = resolved(self.folder / name) if is_plain_name(name) else None
        if target is not None and (target.parent / MANIFEST_NAME).is_file():
            return f"it is a link into {target.parent}: name that folder as the bundle"
        return "do not use this bundle"

    def _check_names(self) -> None:
        where = self.folder / MANIFEST_NAME
        manifest = self.manifest
        for name in manifest.files:
            if not is_plain_name(name) or not self._is_inside(name):
                raise BundleFormatError(f"{where}: file {name!r} leaves the bundle folder; {self._way_out(name)}")
        graphs = {stage.file for stages in manifest.graphs.values() for stage in stages.values()}
        needed = graphs | {manifest.embedding.file}
        for name in sorted(needed - set(manifest.files)):
            raise BundleFormatError(f"{where}: {name!r} is used but not listed under files; export the model again")
        spec = manifest.embedding
        if spec.dtype not in EMBEDDING_DTYPES:
            raise BundleFormatError(f"{where}: embedding.dtype {spec.dtype!r} is not known")
        itemsize = np.dtype(EMBEDDING_DTYPES[spec.dtype]).itemsize
        if manifest.files[spec.file].bytes != spec.rows * spec.columns * itemsize:
            raise BundleFormatError(f"{where}: {spec.file} does not have the size of its rows and columns")

    def _check_sizes(self) -> None:
        for name, spec in self.manifest.files.items():
            try:
                found = self.path(name).stat()
            except OSError:
                raise BundleDamagedError(
                    f"{self.path(name)} is missing; copy the whole bundle again or export the model again"
                ) from None
            if not stat.S_ISREG(found.st_mode):
                raise BundleDamagedError(f"{self.path(name)} is no regular file; copy the bundle again")
            found_bytes = found.st_size
            if found_bytes != spec.bytes:
                raise BundleDamagedError(
                    f"{self.path(name)} has {found_bytes} bytes instead of {spec.bytes}; "
                    "copy the bundle again or export the model again"
                )

    def _check_contents(self, verify: bool) -> None:
        for name, spec in self.manifest.files.items():
            try:
                found_sha256 = remembered_sha256(self.path(name), anew=verify)
            except OSError as error:
                raise BundleDamagedError(f"cannot read {self.path(name)}: {error.strerror}") from None
            if found_sha256 != spec.sha256:
                raise BundleDamagedError(
                    f"{self.path(name)} was altered: its content does not have the hash in {MANIFEST_NAME}; "
                    "copy the bundle again or export the model again"
                )
        for file in sorted({stage.file for stages in self.manifest.graphs.values() for stage in stages.values()}):
            for name in sorted(weight_files(self.path(file).read_bytes(), str(self.path(file)))):
                if name not in self.manifest.files:
                    raise BundleFormatError(
                        f"{self.path(file)} reads {name!r}, which the manifest does not list; do not use this bundle"
                    )

    def mark_as_verified(self) -> None:
        """Remembers that its files have the hashes of the manifest: they were hashed while they were written."""
        for name, spec in self.manifest.files.items():
            remember_sha256(self.path(name), spec.sha256)


def _blob_folders(folder: Path) -> tuple[Path, ...]:
    """Where the files of a hub snapshot may lie: its links lead to its repository's blobs, or those all share.

    The cache holds ``models--owner--name/snapshots/<commit>`` beside ``models--owner--name/blobs`` and ``blobs``.
    """
    repository = folder.parent.parent
    if folder.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    return repository / "blobs", repository.parent / "blobs"


def _not_found(root: Path) -> str:
    if not root.exists():
        return f"there is no bundle at {root}; make one with: glimpse-export --model NAME --out {root}"
    return f"{root} is not a bundle: it has no {MANIFEST_NAME}; make one with: glimpse-export --model NAME --out DIR"
