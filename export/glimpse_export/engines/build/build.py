"""Builds one engine in this process: parse, check, build, write."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glimpse_export.engines.build import checks
from glimpse_export.engines.build.cache import writing
from glimpse_export.engines.build.job import Job
from glimpse_export.engines.build.parse import load_plugin, parse
from glimpse_export.engines.build.report import NetworkReport, read_network
from glimpse_export.engines.build.timing import TimingCache
from glimpse_export.engines.build.writer import write_engine
from glimpse_export.errors import BuildError
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.engines.flavours import Flavour, Installed
from glimpse_runtime.engines.key import has_compaction
from glimpse_runtime.engines.log import Messages, make_logger
from glimpse_runtime.engines.profiles import EngineProfile
from glimpse_runtime.engines.store import EngineRecord, engine_file, engine_folder, report_file, write_record
from glimpse_runtime.files.atomic import open_atomic, write_text

# Whose precision a stage's matrices have, in the manifest's names.
_PARTS = {
    "vision": ("vision",),
    "score": ("score",),
    "lower": ("lower", "lower_attention"),
    "upper": ("upper", "head"),
    "compact": (),
}
_KIB = 1 << 10


def build_engine(found: Installed, job: Job) -> EngineRecord:
    """Builds an engine into the cache.

    Args:
        found: the TensorRT to build with.
        job: what to build.

    Raises:
        BuildError: it cannot be built, or would not compute what the graph says.
    """
    trt, stage = found.module, job.key.stage
    bundle = Bundle.open(job.bundle, contents=False)
    spec = bundle.manifest.stages_of(job.dialect)[stage]
    graph = bundle.path(spec.file)
    uses_plugin = (job.plugin is not None) if has_compaction(graph.read_bytes()) else None
    messages = Messages()
    logger = make_logger(trt, messages)
    if job.plugin is not None:
        load_plugin(found, Path(job.plugin))
    builder = _builder(found, logger, messages)
    started = time.monotonic()
    parsed = parse(found, builder, logger, messages, graph, bool(uses_plugin))
    report = read_network(trt, parsed.network)
    parse_s = time.monotonic() - started
    _check(report, stage, spec, uses_plugin, bundle.manifest, found.flavour)
    config = _config(found, builder, spec, job)
    timing = TimingCache(found, job.key.gpu)
    timing.load(config)
    started = time.monotonic()
    with writing(engine_folder(job.key)), open_atomic(engine_file(job.key)) as file:
        written = write_engine(found, builder, parsed.network, config, file)
        if written is None:
            raise BuildError(f"{found.title} cannot build an engine of {spec.file}:{messages}")
    build_s = time.monotonic() - started
    timing.save(config)
    record = EngineRecord(
        key=job.key,
        engine=written,
        profiles=tuple(profile.name for profile in job.profiles),
        layers=report.types,
        aliases=report.aliases,
        seconds={"parse": round(parse_s, 3), "build": round(build_s, 3)},
        peak_bytes=peak_bytes(),
    )
    with writing(engine_folder(job.key)):
        write_text(report_file(job.key), json.dumps(asdict(report), indent=1) + "\n")
        write_record(record)
    return record


def peak_bytes() -> int:
    """Returns the most memory this process has had, mapped files included; 0 where the system does not tell.

    Not from getrusage, which begins with the memory of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM:")), 0)


def _builder(found: Installed, logger: Any, messages: Messages) -> Any:
    try:
        builder = found.module.Builder(logger)
    except (TypeError, RuntimeError):  # pybind's words for a null pointer
        builder = None
    if builder is None:
        raise BuildError(f"{found.title} cannot start here; check the GPU and its driver:{messages}")
    return builder


def _check(
    report: NetworkReport, stage: str, spec: StageSpec, plugin: bool | None, manifest: Manifest, flavour: Flavour
) -> None:
    checks.check_typed(report, stage, flavour)
    checks.check_interface(report, stage, spec)
    checks.check_consumed(report, stage)
    checks.check_compaction(report, stage, plugin)
    # Bundles of earlier exporters name no attention of its own.
    parts = [manifest.precision[part] for part in _PARTS[stage] if part in manifest.precision]
    checks.check_precision(report, stage, parts)


def _config(found: Installed, builder: Any, spec: StageSpec, job: Job) -> Any:
    trt = found.module
    config = builder.create_builder_config()
    # Products of float32 stay float32: which tokens are kept must not depend on rounding.
    config.clear_flag(trt.BuilderFlag.TF32)
    if job.turing:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    for index, profile in enumerate(job.profiles):
        _add_profile(builder, config, spec, profile, shared=index > 0)
    return config


def _add_profile(builder: Any, config: Any, spec: StageSpec, profile: EngineProfile, shared: bool) -> None:
    made = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if any(isinstance(dim, str) for dim in tensor.shape):
            made.set_shape(tensor.name, *profile.shapes(tensor))
    if shared:
        # No copy of the weights beside the first profile's.
        made.extra_memory_target = 0.0
    if config.add_optimization_profile(made) < 0:
        raise BuildError(f"TensorRT refuses the {profile.name} profile of {spec.file}: {dict(profile.dims)}")
