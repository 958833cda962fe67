"""A bundle on disk: find it, check it, name its files."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.bundle.checks import check_values
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, EmbeddingSpec, Manifest
from glimpse_runtime.errors import BundleDamagedError, BundleFormatError, BundleNotFoundError
from glimpse_runtime.files.atomic import write_text

log = logging.getLogger("glimpse")

_HASH_EACH_LOAD_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_EMBEDDING_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


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
    def open(
        cls, folder: str | os.PathLike[str] | None = None, verify: bool = False, contents: bool = True
    ) -> "Bundle":
        """Reads the manifest and checks the files.

        Sizes are checked always. Contents are hashed always for small bundles, and for large ones at the first
        use and again when a file's size or modification time has changed since.

        Args:
            folder: the bundle's folder; None is the packaged pocket bundle.
            verify: hash every file even if that was done before.
            contents: False checks sizes alone, for whoever only wants to know what the bundle is.

        Raises:
            BundleNotFoundError: there is no bundle there.
            BundleFormatError: the manifest cannot be read by this version.
            BundleDamagedError: a file is missing, cut or altered.
        """
        root = packaged_bundle() if folder is None else Path(os.path.expanduser(folder))  # noqa: PTH111  (never fails)
        path = root / MANIFEST_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BundleNotFoundError(_not_found(root)) from None
        except UnicodeDecodeError:
            raise BundleFormatError(f"{path} is not UTF-8 text; export the model again") from None
        except OSError as error:
            raise BundleNotFoundError(f"cannot read {path}: {error.strerror}") from None
        root = root.resolve()
        bundle = cls(root, Manifest.from_json(text, str(path)))
        check_values(bundle.manifest, str(path))
        bundle._check_names()
        bundle._check_sizes()
        if contents or verify:
            bundle._check_contents(verify)
        return bundle

    def path(self, name: str) -> Path:
        """Returns the path of a file that the manifest lists."""
        return self.folder / name

    def embedding(self) -> "EmbeddingTable":
        """Returns the memory-mapped token embedding table."""
        return open_table(self.path(self.manifest.embedding.file), self.manifest.embedding)

    def _is_inside(self, name: str) -> bool:
        target = (self.folder / name).resolve()
        return any(target.is_relative_to(place) for place in (self.folder, *_blob_folders(self.folder)))

    def _check_names(self) -> None:
        where = self.folder / MANIFEST_NAME
        manifest = self.manifest
        for name in manifest.files:
            if not is_plain_name(name) or not self._is_inside(name):
                raise BundleFormatError(f"{where}: file {name!r} leaves the bundle folder; do not use this bundle")
        graphs = {stage.file for stages in manifest.graphs.values() for stage in stages.values()}
        needed = graphs | {manifest.embedding.file}
        for name in sorted(needed - set(manifest.files)):
            raise BundleFormatError(f"{where}: {name!r} is used but not listed under files; export the model again")
        spec = manifest.embedding
        if spec.dtype not in _EMBEDDING_DTYPES:
            raise BundleFormatError(f"{where}: embedding.dtype {spec.dtype!r} is not known")
        itemsize = np.dtype(_EMBEDDING_DTYPES[spec.dtype]).itemsize
        if manifest.files[spec.file].bytes != spec.rows * spec.columns * itemsize:
            raise BundleFormatError(f"{where}: {spec.file} does not have the size of its rows and columns")

    def _check_sizes(self) -> None:
        for name, spec in self.manifest.files.items():
            try:
                found_bytes = self.path(name).stat().st_size
            except OSError:
                raise BundleDamagedError(
                    f"{self.path(name)} is missing; copy the whole bundle again or export the model again"
                ) from None
            if found_bytes != spec.bytes:
                raise BundleDamagedError(
                    f"{self.path(name)} has {found_bytes} bytes instead of {spec.bytes}; "
                    "copy the bundle again or export the model again"
                )

    def _check_contents(self, verify: bool) -> None:
        if self._is_large() and not verify and _read_or_empty(self._mark()) == self._state():
            return
        for name, spec in self.manifest.files.items():
            try:
                found_sha256 = sha256_of(self.path(name))
            except OSError as error:
                raise BundleDamagedError(f"cannot read {self.path(name)}: {error.strerror}") from None
            if found_sha256 != spec.sha256:
                raise BundleDamagedError(
                    f"{self.path(name)} was altered: its content does not have the hash in {MANIFEST_NAME}; "
                    "copy the bundle again or export the model again"
                )
        self.mark_as_verified()

    def mark_as_verified(self) -> None:
        """Remembers, for a large bundle, that its contents have the hashes of the manifest."""
        if not self._is_large():
            return
        try:
            self._mark().parent.mkdir(parents=True, exist_ok=True)
            write_text(self._mark(), self._state())
        except OSError as error:
            log.debug("cannot remember that %s was verified: %s", self.folder, error)

    def _is_large(self) -> bool:
        return sum(spec.bytes for spec in self.manifest.files.values()) > _HASH_EACH_LOAD_BYTES

    def _state(self) -> str:
        """What changes when a file of the bundle is changed."""
        found = {name: self.path(name).stat() for name in self.manifest.files}
        files = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}
        manifest = hashlib.sha256(self.path(MANIFEST_NAME).read_bytes()).hexdigest()
        return json.dumps({"manifest": manifest, "files": files}, sort_keys=True)

    def _mark(self) -> Path:
        """Where it is remembered that this bundle was hashed."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:32]
        return cache_folder() / "verified" / f"{name}.json"


@dataclass(frozen=True)
class EmbeddingTable:
    """Rows of the token embedding, widened to float32 when they are read."""

    stored: Array
    dtype: str

    def rows(self, ids: IntArray) -> FloatArray:
        """Returns the embeddings of ``ids``: (tokens,) int -> (tokens, hidden) float32."""
        rows: Array = self.stored[ids]
        widened: FloatArray = (
            (rows.astype(np.uint32) << 16).view(np.float32) if self.dtype == "bfloat16" else rows.astype(np.float32)
        )
        return widened


def open_table(path: Path, spec: EmbeddingSpec) -> EmbeddingTable:
    """Returns a memory-mapped token embedding table."""
    stored = np.memmap(path, _EMBEDDING_DTYPES[spec.dtype], mode="r", shape=(spec.rows, spec.columns))
    return EmbeddingTable(stored, spec.dtype)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Returns ``$GLIMPSE_CACHE``, else ``$XDG_CACHE_HOME/glimpse``, else ``~/.cache/glimpse``."""
    own = os.environ.get("GLIMPSE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimpse"


def packaged_bundle() -> Path:
    """Returns the folder of the pocket bundle that ships with the package.

    Raises:
        BundleNotFoundError: this installation does not have it.
    """
    folder = Path(str(resources.files("glimpse_models"))) / "pocket" / "bundle"
    if not (folder / MANIFEST_NAME).is_file():
        raise BundleNotFoundError(
            f"the packaged pocket bundle is not at {folder}; name a bundle with --bundle, "
            "or make it with: glimpse-export --model pocket --out BUNDLE"
        )
    return folder


def is_plain_name(name: str) -> bool:
    """Whether a file's name, as text, leads to a place below the folder it is joined to."""
    pure = PurePosixPath(name)
    below = bool(pure.name) and not pure.is_absolute() and ".." not in pure.parts
    return below and "\\" not in name and "\0" not in name


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


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
