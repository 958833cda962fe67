"""Files of a Hugging Face hub, in the hub library's own cache; its failures said so that a user can act on them."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glimpse_runtime.bundle.hub.name import HubId
from glimpse_runtime.errors import GlimpseError, HubError, HubUnreachableError


def fetch_file(hub_id: HubId, name: str) -> Path:
    """Returns a file's place in the cache, downloading it when it is not there or its branch has moved on.

    Raises:
        HubError: the hub does not have it or cannot be reached.
    """
    with hub_errors(hub_id):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(hub_id.repository, name, revision=hub_id.revision))


@contextmanager
def hub_errors(hub_id: HubId) -> Iterator[None]:
    """Turns whatever goes wrong between here and the hub into a ``HubError``."""
    try:
        yield
    except GlimpseError:
        raise
    except Exception as error:
        # The library changed its HTTP client twice, and with it the exceptions of a broken connection.
        kind = HubUnreachableError if _is_unreachable(error) else HubError
        raise kind(f"cannot download {hub_id}: {_reason(hub_id, error)}") from error


def _is_unreachable(error: Exception) -> bool:
    if isinstance(error, ImportError):
        return False
    from huggingface_hub import utils

    return isinstance(error, (utils.LocalEntryNotFoundError, utils.OfflineModeIsEnabled))


def _reason(hub_id: HubId, error: Exception) -> str:
    if isinstance(error, ImportError):
        return 'huggingface_hub is not installed; run: pip install "glimpse-edge[hub]"'
    from huggingface_hub import constants, utils

    if isinstance(error, utils.HFValidationError):
        return "the hub has no names of this form; check the name"
    if isinstance(error, utils.GatedRepoError):
        page = f"{constants.ENDPOINT}/{hub_id.repository}"
        return f"its owner asks you to accept terms first; do so at {page}, then log in with: hf auth login"
    if isinstance(error, utils.RevisionNotFoundError):
        return f"the repository has no revision {hub_id.revision}; check the name of the branch, tag or commit"
    if isinstance(error, utils.RepositoryNotFoundError):
        return "there is no such repository, or it is private; check the name, or log in with: hf auth login"
    if isinstance(error, (utils.LocalEntryNotFoundError, utils.OfflineModeIsEnabled)):
        where = f"not all of it is in the cache {constants.HF_HUB_CACHE}"
        if constants.HF_HUB_OFFLINE:
            return f"HF_HUB_OFFLINE is set and {where}; run it once without"
        return f"{constants.ENDPOINT} cannot be reached and {where}; check the connection and run it again"
    if isinstance(error, utils.EntryNotFoundError):
        return "a file is missing there; ask its owner, or name another revision"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space is left for {constants.HF_HUB_CACHE}; free some and run it again, it goes on from there"
    lines = str(error).strip().splitlines() or [""]
    # The library changed its HTTP client twice; of whatever is no fault of the connection another try changes nothing.
    is_connection = isinstance(error, (OSError, EOFError)) or "http" in type(error).__module__
    advice = "run it again, it goes on from what has arrived" if is_connection else "install huggingface_hub again"
    return f"{type(error).__name__}: {lines[0][:200]}; {advice}"
