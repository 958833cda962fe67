"""From what the user typed to folders on disk: a model name, a hub id, or a folder."""

import difflib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from glimpse_export.errors import ModelNotFoundError
from glimpse_models import MODELS, find

_PACKAGE = "package:"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BASE_FILES = ["*.json", "*.safetensors", "*.jinja"]
_ADAPTER_FILES = ["config.json", "new_modules_gp.pt"]


@dataclass(frozen=True)
class ModelFolders:
    """Where a model's files lie, and what is known about it.

    Attributes:
        name: the model's name for the manifest.
        base: folder of the base checkpoint.
        adapter: folder of the adapter.
        licence: licence of the weights and its terms, ``unknown`` when they come from a folder.
        base_source: what the user or the registry called the base; never a path of this machine.
        adapter_source: the same for the adapter.
    """

    name: str
    base: Path
    adapter: Path
    licence: str
    base_source: str
    adapter_source: str


def resolve(model: str, adapter: str | None = None) -> ModelFolders:
    """Finds, and for a hub id downloads, the files of a model.

    Args:
        model: a name of the registry, a hub id ``owner/name``, or a folder.
        adapter: hub id or folder of the adapter; a registry name has its own, and a base folder may hold it.

    Raises:
        ModelNotFoundError: there is no such model or adapter, or it cannot be downloaded.
    """
    facts = find(model)
    if facts is not None and not Path(model).is_dir():
        chosen = adapter or facts.adapter
        return ModelFolders(
            facts.name,
            _folder(facts.base, _BASE_FILES, facts.revision),
            _folder(chosen, _ADAPTER_FILES, None if adapter else facts.revision),
            f"{facts.licence}. {facts.terms}",
            _source(facts.base),
            _source(chosen),
        )
    base = _folder(model, _BASE_FILES, None)
    if adapter is None:
        if not (base / "new_modules_gp.pt").is_file():
            raise ModelNotFoundError(
                f"{model} comes without a GlimpsePrune adapter; name its folder or hub id with --adapter"
            )
        adapter = str(base)
    name = Path(model).name if Path(model).is_dir() else model.rsplit("/", 1)[-1]
    licence = "unknown: see the checkpoint's model card"
    return ModelFolders(name, base, _folder(adapter, _ADAPTER_FILES, None), licence, _source(model), _source(adapter))


def _folder(place: str, patterns: list[str], revision: str | None) -> Path:
    if place.startswith(_PACKAGE):
        folder = Path(str(resources.files("glimpse_models"))) / place[len(_PACKAGE) :]
        if not folder.is_dir():
            raise ModelNotFoundError(f"this installation lacks {folder}; install glimpse-edge again")
        return folder
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    looks_like_path = place.startswith((".", "~", os.sep)) or place.count("/") > 1 or "\\" in place
    if looks_like_path or path.exists() or not _HUB_ID.fullmatch(place):
        raise ModelNotFoundError(_unknown(place))
    return _download(place, patterns, revision)


def _download(hub_id: str, patterns: list[str], revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ModelNotFoundError('reading from the hub needs: pip install "glimpse-edge[export]"') from None
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"cannot download {hub_id}: {reason}; check the name and the connection, or give a local folder"
        ) from None


def _unknown(place: str) -> str:
    close = difflib.get_close_matches(place.lower(), MODELS, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no model {place!r}{hint}; give a folder, a hub id owner/name, or one of: {', '.join(MODELS)}"


def _source(place: str) -> str:
    if place.startswith(_PACKAGE):
        return "glimpse_models/" + place[len(_PACKAGE) :]
    return Path(place).name if Path(place).is_dir() else place
