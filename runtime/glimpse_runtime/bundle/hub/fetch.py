"""A bundle from the hub: its manifest, the files that the manifest lists, and nothing else."""

from pathlib import Path

from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME
from glimpse_runtime.bundle.hub.download import fetch_file, hub_errors
from glimpse_runtime.bundle.hub.name import HubId
from glimpse_runtime.bundle.hub.resume import RESUMED_FROM_BYTES, fetch_large
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from glimpse_runtime.errors import BundleFormatError, BundleNotFoundError, HubError
from glimpse_runtime.files.places import is_plain_name
from glimpse_runtime.files.reading import read_small_text


def fetch_bundle(hub_id: HubId) -> Path:
    """Returns the folder of a bundle in the hub's cache, downloading what is not there.

    All files are of one commit. A bundle named by its commit is not asked for again once it is there.

    Raises:
        BundleNotFoundError: the hub does not have it or cannot be reached.
        BundleFormatError: its manifest is not one that this version reads.
    """
    try:
        return _fetch(hub_id)
    except HubError as error:
        raise BundleNotFoundError(f"there is no folder {str(hub_id)!r}, and as a hub id: {error}") from error


def _fetch(hub_id: HubId) -> Path:
    path = _manifest(hub_id)
    folder = path.parent
    pinned = HubId(hub_id.repository, folder.name)
    try:
        manifest = Manifest.from_json(read_small_text(path), str(path))
    except UnicodeDecodeError:
        raise BundleFormatError(f"{path} is not UTF-8 text; export the model again") from None
    for name in manifest.files:
        if not is_plain_name(name):
            raise BundleFormatError(f"{path}: file {name!r} leaves the bundle folder; do not use this bundle")
    for name, spec in manifest.files.items():
        if not (folder / name).exists():
            if spec.bytes >= RESUMED_FROM_BYTES:
                with hub_errors(hub_id):
                    fetch_large(pinned, name)
            fetch_file(pinned, name)
    if CERTIFICATE_NAME not in manifest.files:
        _certificate(pinned)
    return folder


def _manifest(hub_id: HubId) -> Path:
    with hub_errors(hub_id):
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return fetch_file(hub_id, MANIFEST_NAME)
        except HubError as error:
            cause = error.__cause__
            if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
                raise HubError(f"{hub_id} is not a bundle: it has no {MANIFEST_NAME}") from cause
            raise


def _certificate(pinned: HubId) -> None:
    """A bundle may lack a certificate; that it does is remembered by the cache for a commit."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError

    if try_to_load_from_cache(pinned.repository, CERTIFICATE_NAME, revision=pinned.revision) is not _CACHED_NO_EXIST:
        try:
            fetch_file(pinned, CERTIFICATE_NAME)
        except HubError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
