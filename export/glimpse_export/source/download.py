"""A checkpoint from the hub: the files export reads, of one commit, resumed where a download broke off."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from glimpse_runtime.bundle.hub.download import hub_errors
from glimpse_runtime.bundle.hub.name import HubId
from glimpse_runtime.bundle.hub.resume import RESUMED_FROM_BYTES, fetch_large


def fetch_snapshot(hub_id: HubId, patterns: Sequence[str], first_of: Sequence[str] = ()) -> Path:
    """Returns a folder with a repository's files that match one of the patterns; its name is their commit.

    What is in the cache already is not downloaded again, and what of a large file has arrived is not either. Without
    a connection the cached files are used when they are all there.

    Args:
        hub_id: the repository.
        patterns: names of files.
        first_of: more of them, of which only the first counts that the repository has files for.

    Raises:
        HubError: the hub does not have it or cannot be reached.
    """
    with hub_errors(hub_id):
        from huggingface_hub import HfApi, snapshot_download

        try:
            found = HfApi().model_info(hub_id.repository, revision=hub_id.revision, files_metadata=True)
        except Exception:
            found = None  # snapshot_download meets the same failure, and knows when the cache makes up for it
        wanted = [*patterns, *first_of]
        if found is not None and found.sha:
            names = [file.rfilename for file in found.siblings or []]
            there = [pattern for pattern in first_of if fnmatch.filter(names, pattern)]
            wanted = [*patterns, *there[:1]]
            pinned = HubId(hub_id.repository, found.sha)
            for file in found.siblings or []:
                is_wanted = any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in wanted)
                if is_wanted and (file.size or 0) >= RESUMED_FROM_BYTES:
                    fetch_large(pinned, file.rfilename)
        return Path(snapshot_download(hub_id.repository, revision=hub_id.revision, allow_patterns=wanted))
