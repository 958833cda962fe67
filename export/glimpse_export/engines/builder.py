"""Builds the engines of a bundle that are not in the cache yet."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glimpse_export.engines.build.cache import writing
from glimpse_export.engines.build.job import Job
from glimpse_export.engines.memory import available_bytes, build_memory, read_weights, require_memory, scratch_bytes
from glimpse_export.engines.options import BuildOptions
from glimpse_export.engines.plugin import Plugin, find_plugin
from glimpse_export.engines.worker import build_apart
from glimpse_export.errors import BuildError
from glimpse_runtime.backends.cuda.packages import require_driver_for_tensorrt
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.checks import UPDATE_STAGE
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.engines.flavours import Flavour, Installed, installed
from glimpse_runtime.engines.gpu import Gpu, current_gpu
from glimpse_runtime.engines.key import EngineKey, Setting, engine_key, has_compaction, is_turing
from glimpse_runtime.engines.store import StoredEngine, engine_folder, find_engine
from glimpse_runtime.files.lock import locked

Progress = Callable[[str], None]

_POLL_S = 1.0


@dataclass(frozen=True)
class PlannedEngine:
    """One engine of a bundle.

    Attributes:
        key: all it depends on.
        job: how to build it.
        stored: the engine if it is in the cache and is to stay.
        is_forced: whether it is to be built even if it is there.
        peak_bytes: memory that building it would take, about.
    """

    key: EngineKey
    job: Job
    stored: StoredEngine | None
    is_forced: bool
    peak_bytes: int


def plan_engines(folder: Path, options: BuildOptions, progress: Progress) -> list[PlannedEngine]:
    """Works out which engines a bundle has, and that those which are missing can be built.

    Args:
        folder: the bundle.
        options: how.
        progress: called with a line of text at the start of a long step.

    Raises:
        GlimpseError: there is no such TensorRT, GPU, bundle or dialect, or too little memory.
    """
    require_driver_for_tensorrt(options.target)
    found = installed(options.target)
    bundle = Bundle.open(folder)
    dialect = choose_dialect(bundle.manifest, found, options.dialect, folder)
    # Streams run on the CPU: an engine of their stage would hold the weights of vision once more.
    stages = {name: spec for name, spec in bundle.manifest.stages_of(dialect).items() if name != UPDATE_STAGE}
    gpu = current_gpu()
    Setting.here(found, gpu)  # refuses early, before the plugin is compiled
    compacts = any(has_compaction(bundle.path(spec.file).read_bytes()) for spec in stages.values())
    plugin = _plugin(found, gpu, options, progress) if compacts else None
    setting = Setting.here(found, gpu, plugin.sources if plugin else None)
    host_bytes = available_bytes() if options.budget is None else options.budget.available_bytes
    planned = []
    for stage, spec in stages.items():
        key = engine_key(bundle, stage, spec, setting)
        stored = None if options.force else find_engine(key)
        uses_plugin = plugin is not None and key.compaction != ""
        library = str(plugin.library) if plugin is not None and uses_plugin else None
        job = Job(str(bundle.folder), dialect, options.target, key, library, is_turing(gpu) and found.flavour.portable)
        needed = build_memory(
            read_weights(bundle.path(spec.file)), found.flavour, gpu, scratch_bytes(bundle.manifest, stage, dialect)
        )
        if stored is None:
            require_memory(stage, needed, host_bytes, gpu)
        planned.append(PlannedEngine(key, job, stored, options.force, needed.host_bytes))
    return planned


def build_engines(folder: Path, options: BuildOptions, progress: Progress) -> list[StoredEngine]:
    """Builds the engines of a bundle that are missing, and returns all of them; see ``plan_engines``.

    Raises:
        GlimpseError: one cannot be built; those that were finished before stay.
    """
    return [_build(planned, progress) for planned in plan_engines(folder, options, progress)]


def choose_dialect(manifest: Manifest, found: Installed, asked: str | None, folder: Path) -> str:
    """Returns the dialect to build: what was asked for, else the first that TensorRT imports and the bundle has.

    Raises:
        BuildError: there is none.
    """
    there = manifest.dialects
    wanted = found.flavour.dialects if asked is None else (asked,)
    if asked is not None and asked not in found.flavour.dialects:
        raise BuildError(f"{found.title} does not import the dialect {asked}, but {_either(found.flavour)}")
    for dialect in wanted:
        if dialect in there:
            return dialect
    raise BuildError(
        f"{folder} has the dialect {', '.join(there)}, and {found.title} needs {' or '.join(wanted)}; export the model "
        f"again with --dialect {wanted[0]} (a bundle may have several dialects, on the same weights)"
    )


def _plugin(found: Installed, gpu: Gpu | None, options: BuildOptions, progress: Progress) -> Plugin | None:
    """Returns the compaction plugin as far as it is wanted and can be had."""
    if options.plugin is False:
        return None
    try:
        return find_plugin(found, gpu, progress)
    except BuildError as error:
        if options.plugin:
            raise
        progress(f"{error}\nGoing on without it.")
        return None


def _either(flavour: Flavour) -> str:
    return " or ".join(flavour.dialects)


def _build(planned: PlannedEngine, progress: Progress) -> StoredEngine:
    """Builds one engine unless it is there; of two processes one builds and the other waits for it."""
    if planned.stored is not None:
        progress(f"{planned.key.stage}: engine is there")
        return planned.stored
    folder = engine_folder(planned.key)
    waited = False
    while True:
        with writing(folder), locked(folder) as is_mine:
            if is_mine:
                # What another process has built meanwhile is as good.
                stored = find_engine(planned.key) if waited or not planned.is_forced else None
                return stored or _build_now(planned, progress)
        if not waited:
            progress(f"{planned.key.stage}: another process is building this engine, waiting for it")
        waited = True
        time.sleep(_POLL_S)


def _build_now(planned: PlannedEngine, progress: Progress) -> StoredEngine:
    key, folder = planned.key, engine_folder(planned.key)
    for leftover in folder.glob(".*.tmp-*"):  # of a build that was killed
        leftover.unlink()
    progress(f"{key.stage}: building for {key.tensorrt} on {key.gpu}")
    build_apart(planned.job)
    stored = find_engine(key)
    if stored is None:
        raise BuildError(f"{key.stage}: the engine in {folder} was altered while it was built; run the command again")
    seconds = sum(stored.record.seconds.values())
    progress(f"{key.stage}: built in {seconds:,.0f} s, {stored.record.engine.bytes / 1e6:,.1f} MB")
    return stored
