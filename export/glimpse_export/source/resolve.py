"""From what the user typed to folders on disk: a model name, a hub id, or a folder."""

import difflib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from glimpse_export.errors import ModelNotFoundError
from glimpse_export.source.download import fetch_snapshot
from glimpse_export.source.lora import WEIGHTS as LORA_WEIGHTS
from glimpse_export.source.lora_config import CONFIG as LORA_CONFIG
from glimpse_export.source.trained_pruners import PATTERN
from glimpse_models import MODELS, find
from glimpse_runtime.bundle.hub.name import HubId, parse_hub_id
from glimpse_runtime.errors import HubError

_PACKAGE = "package:"
_BASE_FILES = ["*.json", "*.safetensors", "*.jinja"]
_ADAPTER_FILES = ["config.json", "new_modules_gp.pt", PATTERN]
_LORA_FILES = [LORA_CONFIG, LORA_WEIGHTS]


@dataclass(frozen=True)
class ModelFolders:
    """Where a model's files lie, and what is known about it.

    Attributes:
        name: the model's name for the manifest.
        base: folder of the base checkpoint.
        adapter: folder of the GlimpsePrune adapter.
        licence: licence of the weights and its terms, ``unknown`` when they come from a folder.
        base_source: what the user or the registry called the base; never a path of this machine.
        adapter_source: the same for the adapter.
        lora: folder of the LoRA adapter, None without one.
        lora_source: what that was called.
    """

    name: str
    base: Path
    adapter: Path
    licence: str
    base_source: str
    adapter_source: str
    lora: Path | None = None
    lora_source: str | None = None


@dataclass(frozen=True)
class _Found:
    """A folder, and what the user or the registry called it; never a path of this machine."""

    folder: Path
    source: str


def resolve(
    model: str, adapter: str | None = None, revision: str | None = None, lora: str | None = None
) -> ModelFolders:
    """Finds, and for a hub id downloads, the files of a model.

    Args:
        model: a name of the registry, a hub id ``owner/name`` or ``owner/name@revision``, or a folder.
        adapter: hub id or folder of the adapter; a registry name has its own, and a base folder may hold it.
        revision: branch, tag or commit of the model's hub repository, instead of the registry's.
        lora: hub id or folder of a LoRA adapter of the base; a registry name may have its own.

    Raises:
        ModelNotFoundError: there is no such model or adapter, or it cannot be downloaded.
    """
    _refuse_lora(model, "its base with --model")
    _refuse_lora(adapter, "the GlimpsePrune adapter with --adapter")
    facts = find(model)
    # The adapters first: what is wrong with them should not wait for the gigabytes of the base.
    if facts is not None and not Path(model).is_dir():
        chosen = _find(adapter or facts.adapter, _ADAPTER_FILES, None if adapter else facts.adapter_revision)
        merged = _find_lora(lora or facts.lora, None if lora else facts.lora_revision)
        base = _find(facts.base, _BASE_FILES, revision or facts.revision)
        name, licence = facts.name, f"{facts.licence}. {facts.terms}"
    else:
        chosen = _find(adapter or model, _ADAPTER_FILES, None if adapter else revision)
        if adapter is None and not (chosen.folder / "new_modules_gp.pt").is_file():
            raise ModelNotFoundError(
                f"{model} comes without a GlimpsePrune adapter; name its folder or hub id with --adapter"
            )
        merged = _find_lora(lora, None)
        base = _find(model, _BASE_FILES, revision)
        name = Path(model).name if Path(model).is_dir() else model.rsplit("/", 1)[-1].partition("@")[0]
        licence = "unknown: see the checkpoint's model card"
    return ModelFolders(
        name,
        base.folder,
        chosen.folder,
        licence,
        base.source,
        chosen.source,
        merged.folder if merged else None,
        merged.source if merged else None,
    )


def _find_lora(place: str | None, revision: str | None) -> _Found | None:
    return None if place is None else _find(place, _LORA_FILES, revision)


def _refuse_lora(place: str | None, instead: str) -> None:
    folder = Path(place or "").expanduser()
    if place is not None and (folder / LORA_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{place} holds a LoRA adapter; name it with --lora, and {instead}")


def _find(place: str, patterns: list[str], revision: str | None) -> _Found:
    local = _local_folder(place)
    if local is not None:
        if revision is not None:
            raise ModelNotFoundError(
                f"--revision {revision} is for a model on the hub, but {local.source} is on this machine"
            )
        return local
    hub_id = parse_hub_id(place)
    if place.startswith((".", "~", os.sep)) or Path(place).exists() or hub_id is None:
        raise ModelNotFoundError(_unknown(place))
    if revision is not None:
        if hub_id.revision is not None:
            raise ModelNotFoundError(f"{place} names a revision already; leave --revision {revision} away")
        hub_id = HubId(hub_id.repository, revision)
    try:
        folder = fetch_snapshot(hub_id, patterns)
    except HubError as error:
        raise ModelNotFoundError(f"{error}; or give a local folder") from error
    return _Found(folder, f"{hub_id.repository}@{folder.name}")


def _local_folder(place: str) -> _Found | None:
    if place.startswith(_PACKAGE):
        inside = place[len(_PACKAGE) :]
        folder = Path(str(resources.files("glimpse_models"))) / inside
        if not folder.is_dir():
            raise ModelNotFoundError(f"this installation lacks {folder}; install glimpse-edge again")
        return _Found(folder, f"glimpse_models/{inside}")
    path = Path(place).expanduser()
    return _Found(path, path.name) if path.is_dir() else None


def _unknown(place: str) -> str:
    close = difflib.get_close_matches(place.lower(), MODELS, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no model {place!r}{hint}; give a folder, a hub id owner/name, or one of: {', '.join(MODELS)}"
