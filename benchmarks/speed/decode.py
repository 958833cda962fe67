"""Where the time of a decode step goes, by operator, and how waiting threads change it.

    python benchmarks/speed/decode.py [--bundle DIR] [--context 1059] [--spin-us 0,50,100,all] [--seconds 60]
                                      [--threads 2] [--json]

One row goes through ``lower`` and ``upper`` of the dialect ``ort``, on a KV cache that holds ``--context`` rows with
it. ``operator_ms`` is from onnxruntime's own profile, of sessions that are not measured otherwise. ``scores_share`` is
the part of a step in which attention scores are computed that only the glimpse needs.

``--spin-us`` names how long threads of a pool look for work before they sleep: 0 as the runtime sets it, microseconds
(``session.intra_op.spin_duration_us``), or ``all`` for onnxruntime's default. Three steps of one follow three of
another, in an order drawn anew each time; ``step_ratio`` is the median of the ratios to the first one named,
``cpu_ratio`` the same of processor time. Without a bundle, one of Qwen2.5-VL-3B's widths with six layers is made, in
int4.
"""

import argparse
import collections
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.make_checkpoint import cut, write
from glimpse_export import ExportOptions, export
from glimpse_export.weights.precision import Precision
from glimpse_models import MODELS
from glimpse_runtime.backends.ort import import_onnxruntime
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.dialects import ORT
from glimpse_runtime.bundle.manifest import StageSpec

Step = Callable[[], None]
STEPS = 3
PAUSE_S = 0.05  # until threads of the way before have stopped to look for work
PROFILED = 40
LAYERS = 6


def make_bundle(folder: Path) -> Path:
    """Writes checkpoint and bundle below ``folder``; returns the bundle."""
    part = cut(MODELS["qwen2.5-vl-3b"].dims, layers=LAYERS, depth=1, vocab=12672)
    base, adapter = write(folder / "checkpoint", part)
    precision = Precision.choose("int4")
    options = ExportOptions(str(base), str(adapter), precision=precision, max_context=2048, certify="off")
    return export(options, folder / "bundle")


def session_options(ort: Any, spin_us: str, threads: int) -> Any:
    """Returns options that differ in spinning alone."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if spin_us == "0" else "1")
    if spin_us not in ("0", "all"):
        options.add_session_config_entry("session.intra_op.spin_duration_us", spin_us)
    return options


def bound(session: Any, stage: StageSpec, context: int) -> Step:
    """Binds one row behind a cache of random numbers, which grows in place as in the runtime."""
    rng = np.random.default_rng(0)
    binding, kept = session.io_binding(), []
    sizes = {"rows": 1, "context": context, "total": context}
    given: dict[str, Any] = {
        "seqlens_k": np.array([context - 1], np.int32),
        "total_sequence_length": np.array(context, np.int32),
        "slots": np.array([context - 1], np.int64),
    }
    for spec in stage.inputs:
        shape = tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in spec.shape)
        array = given[spec.name] if spec.name in given else rng.standard_normal(shape).astype(spec.dtype)
        kept.append(array)
        binding.bind_input(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        if spec.name.startswith("past."):
            present = spec.name.replace("past.", "present.", 1)
            binding.bind_output(present, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for spec in stage.outputs:
        if not spec.name.startswith("present."):
            binding.bind_output(spec.name, "cpu")

    def run(keep_alive: object = kept) -> None:
        session.run_with_iobinding(binding)

    return run


def steps(ort: Any, bundle: Bundle, context: int, options: Callable[[], Any]) -> dict[str, tuple[Any, Step]]:
    """Returns sessions and steps of both graphs."""
    found, stages = {}, bundle.manifest.stages_of(ORT)
    for name in ("lower", "upper"):
        path = str(bundle.path(stages[name].file))
        session = ort.InferenceSession(path, options(), providers=["CPUExecutionProvider"])
        found[name] = session, bound(session, stages[name], context)
    return found


def by_operator(ort: Any, bundle: Bundle, context: int, threads: int) -> dict[str, Any]:
    """Returns the milliseconds of a step in each kind of operator."""
    with tempfile.TemporaryDirectory() as folder:

        def options() -> Any:
            chosen = session_options(ort, "0", threads)
            chosen.enable_profiling = True
            chosen.profile_file_prefix = f"{folder}/profile"
            return chosen

        spent: collections.Counter[str] = collections.Counter()
        scores_us = total_us = 0
        for session, step in steps(ort, bundle, context, options).values():
            for _ in range(PROFILED):
                step()
            for event in json.loads(Path(session.end_profiling()).read_text()):
                if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                    continue
                spent[event["args"]["op_name"]] += event["dur"]
                total_us += event["dur"]
                sizes = [
                    size for shape in event["args"]["output_type_shape"] for each in shape.values() for size in each
                ]
                # Nothing is as long as the cache but the cache itself, the scores and the keys cut for them.
                is_score = context in sizes and event["args"]["op_name"] != "GroupQueryAttention"
                scores_us += event["dur"] if is_score else 0
    operator_ms = {kind: us / PROFILED / 1e3 for kind, us in spent.most_common()}
    return {"operator_ms": operator_ms, "scores_share": scores_us / total_us}


def by_spinning(
    ort: Any, bundle: Bundle, context: int, spins: Sequence[str], seconds: float, threads: int
) -> dict[str, dict[str, float]]:
    """Returns step times and their ratios for each way of spinning, interleaved."""
    ways = {spin: steps(ort, bundle, context, partial(session_options, ort, spin, threads)) for spin in spins}
    walls: dict[str, list[float]] = {spin: [] for spin in spins}
    processor: dict[str, list[float]] = {spin: [] for spin in spins}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for spin in random.sample(spins, len(spins)):
            both = ways[spin]
            time.sleep(PAUSE_S)
            for turn in range(STEPS + 1):
                if turn == 1:  # the first warms up
                    wall, cpu = time.perf_counter(), time.process_time()
                for _, step in both.values():
                    step()
            walls[spin].append((time.perf_counter() - wall) / STEPS * 1e3)
            processor[spin].append((time.process_time() - cpu) / STEPS * 1e3)

    def ratio(taken: dict[str, list[float]], spin: str) -> float:
        return statistics.median(one / base for one, base in zip(taken[spin], taken[spins[0]], strict=True))

    return {
        "step_ms": {spin: statistics.median(walls[spin]) for spin in spins},
        "step_ratio": {spin: ratio(walls, spin) for spin in spins},
        "cpu_ratio": {spin: ratio(processor, spin) for spin in spins},
        "rounds": {spin: len(walls[spin]) for spin in spins},
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--context", type=int, default=1059)
    parser.add_argument("--spin-us", default="0,50,100,all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ort = import_onnxruntime("cpu")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(options.bundle or make_bundle(Path(folder)))
        result = by_operator(ort, bundle, options.context, options.threads)
        spins = options.spin_us.split(",")
        result |= by_spinning(ort, bundle, options.context, spins, options.seconds, options.threads)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<16}{value}")


if __name__ == "__main__":
    main()
