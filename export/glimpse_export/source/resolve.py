"""From what the user typed to folders on disk: a model name, a hub id, or a folder."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from glimpse_export.errors import ModelNotFoundError
from glimpse_export.source.download import fetch_snapshot
from glimpse_export.source.lora.adapter import WEIGHTS as LORA_WEIGHTS
from glimpse_export.source.lora.config import CONFIG as LORA_CONFIG
from glimpse_export.source.trained_pruners import PATTERN as PRUNER_PATTERN
from glimpse_export.source.weight_folder import PATTERNS
from glimpse_models import MODELS, ModelFacts, find
from glimpse_runtime.bundle.hub.name import HubId, parse_hub_id
from glimpse_runtime.errors import HubError

_PACKAGE = "package:"
_BASE_FILES = ["*.json", "*.jinja", "tokenizer.model"]
_ADAPTER_FILES = ["config.json", "new_modules_gp.pt", PRUNER_PATTERN]
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
        tower: folder of the vision tower, None where the base holds it.
        tower_source: what that was called.
    """

    name: str
    base: Path
    adapter: Path
    licence: str
    base_source: str
    adapter_source: str
    lora: Path | None = None
    lora_source: str | None = None
    tower: Path | None = None
    tower_source: str | None = None


@dataclass(frozen=True)
class Found:
    """A folder, and what it was called by the user, the registry or a configuration; never a path of this machine."""

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
        chosen = find_place(adapter, _ADAPTER_FILES, None) if adapter else _find_adapter(facts)
        merged = _find_lora(lora or facts.lora, None if lora else facts.lora_revision)
        base = find_place(facts.base, _BASE_FILES, revision or facts.revision, PATTERNS)
        name, licence = facts.name, f"{facts.licence}. {facts.terms}"
    else:
        chosen = find_place(adapter or model, _ADAPTER_FILES, None if adapter else revision)
        if adapter is None and not (chosen.folder / "new_modules_gp.pt").is_file():
            raise ModelNotFoundError(
                f"{model} comes without a GlimpsePrune adapter; name its folder or hub id with --adapter"
            )
        merged = _find_lora(lora, None)
        base = find_place(model, _BASE_FILES, revision, PATTERNS)
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


def _find_adapter(facts: ModelFacts) -> Found:
    """Finds a model's own adapter, under any of the names that it is said to have.

    Raises:
        ModelNotFoundError: none of them can be downloaded; what is said is about the first.
    """
    failure: ModelNotFoundError | None = None
    for name in (facts.adapter, *facts.adapter_alternatives):
        try:
            return find_place(name, _ADAPTER_FILES, facts.adapter_revision)
        except ModelNotFoundError as error:
            failure = failure or error
    assert failure is not None
    if not facts.adapter_alternatives:
        raise failure
    others = ", ".join(facts.adapter_alternatives)
    raise ModelNotFoundError(f"{failure}; tried as well: {others}") from failure


def _find_lora(place: str | None, revision: str | None) -> Found | None:
    return None if place is None else find_place(place, _LORA_FILES, revision)


def _refuse_lora(place: str | None, instead: str) -> None:
    folder = Path(place or "").expanduser()
    if place is not None and (folder / LORA_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{place} holds a LoRA adapter; name it with --lora, and {instead}")


def find_place(place: str, patterns: Sequence[str], revision: str | None, first_of: Sequence[str] = ()) -> Found:
    """Returns a folder, or what a hub repository has of it.

    Args:
        place: a folder, a place within this package, or a hub id.
        patterns: names of the files to download.
        revision: branch, tag or commit of a hub repository.
        first_of: more names, of which only the first is downloaded that the repository has.

    Raises:
        ModelNotFoundError: there is no such folder, or it cannot be downloaded.
    """
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
        folder = fetch_snapshot(hub_id, patterns, first_of)
    except HubError as error:
        raise ModelNotFoundError(f"{error}; or give a local folder") from error
    return Found(folder, f"{hub_id.repository}@{folder.name}")


def _local_folder(place: str) -> Found | None:
    if place.startswith(_PACKAGE):
        inside = place[len(_PACKAGE) :]
        folder = Path(str(resources.files("glimpse_models"))) / inside
        if not folder.is_dir():
            raise ModelNotFoundError(f"this installation lacks {folder}; install glimpse-edge again")
        return Found(folder, f"glimpse_models/{inside}")
    path = Path(place).expanduser()
    return Found(path, path.name) if path.is_dir() else None


def _unknown(place: str) -> str:
    close = difflib.get_close_matches(place.lower(), MODELS, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no model {place!r}{hint}; give a folder, a hub id owner/name, or one of: {', '.join(MODELS)}"
