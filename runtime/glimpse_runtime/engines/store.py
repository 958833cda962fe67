"""The cache of built engines: ``$GLIMPSE_CACHE/engines/<key>/<stage>.engine`` with a record beside it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from glimpse_runtime.bundle.manifest import FileSpec
from glimpse_runtime.bundle.records import read_record, to_json
from glimpse_runtime.engines.key import EngineKey
from glimpse_runtime.errors import BackendError, BundleFormatError
from glimpse_runtime.files.atomic import write_text
from glimpse_runtime.files.hashing import remember_sha256, remembered_sha256
from glimpse_runtime.files.places import cache_folder
from glimpse_runtime.files.reading import read_small_text

log = logging.getLogger("glimpse")


@dataclass(frozen=True)
class EngineRecord:
    """What is known about a built engine.

    Attributes:
        key: all it depends on.
        engine: size and hash of its file.
        profiles: its profiles by name, in its order.
        layers: number of the network's layers by type.
        aliases: outputs that the engine writes in the memory of an input, by output.
        seconds: time to parse and to build.
        peak_bytes: most memory of the building process.
    """

    key: EngineKey
    engine: FileSpec
    profiles: tuple[str, ...]
    layers: Mapping[str, int]
    aliases: Mapping[str, str]
    seconds: Mapping[str, float]
    peak_bytes: int


@dataclass(frozen=True)
class StoredEngine:
    """An engine in the cache whose content is what was built.

    Attributes:
        path: its file.
        record: what is known about it.
    """

    path: Path
    record: EngineRecord


def engine_folder(key: EngineKey) -> Path:
    """Returns the folder of an engine in the cache; it need not exist."""
    return cache_folder() / "engines" / key.name


def engine_file(key: EngineKey) -> Path:
    """Returns the file of an engine in the cache; it need not exist."""
    return engine_folder(key) / f"{key.stage}.engine"


def record_file(key: EngineKey) -> Path:
    """Returns the file of its record."""
    return engine_folder(key) / f"{key.stage}.json"


def report_file(key: EngineKey) -> Path:
    """Returns the file that lists its layers and tensors."""
    return engine_folder(key) / f"{key.stage}.layers.json"


def find_engine(key: EngineKey) -> StoredEngine | None:
    """Returns an engine, None when it has to be built: there is none, it is another's, or it was cut or altered.

    Its content is hashed once, and again when size, time or place of the file have changed since.
    """
    path = engine_file(key)
    try:
        where = record_file(key)
        record = read_record(EngineRecord, json.loads(read_small_text(where)), str(where))
        if record.key != key or path.stat().st_size != record.engine.bytes:
            return None
        if remembered_sha256(path) != record.engine.sha256:
            log.warning("%s was altered; it is built again", path)
            return None
    except (OSError, ValueError, BundleFormatError):
        return None
    return StoredEngine(path, record)


def require_engine(key: EngineKey, bundle: Path, target: str) -> StoredEngine:
    """Returns an engine.

    Args:
        key: all it depends on.
        bundle: the bundle it is of, for the message.
        target: what it is built with, for the message.

    Raises:
        BackendError: it has to be built first; with the command.
    """
    found = find_engine(key)
    if found is None:
        raise BackendError(
            f"there is no engine of stage {key.stage!r} for {key.tensorrt} on {key.gpu}; build it on this machine: "
            f"glimpse-export --bundle {bundle} --target {target}"
        )
    return found


def write_record(record: EngineRecord) -> None:
    """Says that an engine is whole, once it is in its place."""
    write_text(record_file(record.key), to_json(record))
    remember_sha256(engine_file(record.key), record.engine.sha256)
