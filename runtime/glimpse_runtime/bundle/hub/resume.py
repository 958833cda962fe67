"""Large files of a hub arrive in pieces: what came before a connection broke or a process died is not lost.

The hub library keeps whole files, but its newer versions drop the part of a file that had arrived. Here the part
stays beside the cache's blobs; once whole it becomes the blob that the library itself would have made.
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from glimpse_runtime.bundle.hub.name import HubId
from glimpse_runtime.errors import HubError

# The library writes pieces of 10 MiB: of a smaller file nothing could be kept.
RESUMED_FROM_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_ETAG = re.compile(r"[0-9a-zA-Z_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_large(hub_id: HubId, name: str) -> None:
    """Makes a large file's blob in the cache, going on where an earlier attempt broke off.

    Does nothing for a file that is there or whose size the hub does not tell: the library does those.

    Args:
        hub_id: the repository, its revision being a commit.
        name: the file.

    Raises:
        HubError: it did not arrive as the hub describes it.
        Exception: whatever the hub library raises.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    if isinstance(try_to_load_from_cache(hub_id.repository, name, revision=hub_id.revision), str):
        return
    url = hf_hub_url(hub_id.repository, name, revision=hub_id.revision)
    found = get_hf_file_metadata(url)
    if not found.size or found.size < RESUMED_FROM_BYTES or not _ETAG.fullmatch(found.etag or ""):
        return
    headers = build_hf_headers()
    if urlsplit(url).netloc != urlsplit(found.location).netloc:
        headers.pop("authorization", None)  # a token is for the hub, not for where it keeps its files
    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=hub_id.repository, repo_type="model")
    blob = cache / folder / "blobs" / found.etag
    lock = cache / ".locks" / folder / f"{found.etag}.lock"
    for place in (blob, lock):
        place.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.exists():
            part = blob.with_name(f"{found.etag}.glimpse.incomplete")
            _download(found.location, part, headers, found.size, name)
            _check(part, found.etag, hub_id, name)
            part.replace(blob)


def _download(url: str, part: Path, headers: dict[str, str], size: int, name: str) -> None:
    from huggingface_hub.file_download import http_get

    with part.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
            file.seek(0)
        arrived = file.tell()
        if arrived < size:
            http_get(url, file, resume_size=arrived, headers=headers, expected_size=size, displayed_filename=name)


def _check(part: Path, etag: str, hub_id: HubId, name: str) -> None:
    """Large files are named by their hash: pieces that do not fit together are found here."""
    if not _SHA256.fullmatch(etag):
        return
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != etag:
        part.unlink()
        raise HubError(f"{name} of {hub_id} did not arrive as the hub describes it; run it again, it starts anew")
