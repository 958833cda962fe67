"""Time, memory and size of building a bundle's engines, every one anew in an empty cache.

Memory is without the weights' file, which is mapped.

python benchmarks/export/engines.py --bundle BUNDLE [--target tensorrt-rtx] [--dialect opset24] [--json]
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from glimpse_export.engines.builder import build_engines
from glimpse_export.engines.memory import build_memory, read_weights
from glimpse_export.engines.options import BuildOptions
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import current_gpu
from glimpse_runtime.engines.store import StoredEngine

_MIB = 1 << 20


def main() -> None:
    """Builds and prints a line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--target", default="tensorrt-rtx", choices=("tensorrt", "tensorrt-rtx"))
    parser.add_argument("--dialect")
    parser.add_argument("--plugin", action="store_true", help="insist on the compaction plugin")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    options = BuildOptions(arguments.target, dialect=arguments.dialect, plugin=arguments.plugin)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GLIMPSE_CACHE"] = cache
        engines = build_engines(arguments.bundle, options, lambda line: None)
        rows = {engine.record.key.stage: figures(arguments.bundle, engine, arguments.target) for engine in engines}
    for stage, row in rows.items():
        print(f"{stage:<8}" + "".join(f"{name} {value:>9,.1f}   " for name, value in row.items()))
    if arguments.json:
        print(json.dumps({"tensorrt": installed(arguments.target).title, "engines": rows}))


def figures(folder: Path, engine: StoredEngine, target: str) -> dict[str, float]:
    """Returns what building an engine took, and what was foretold."""
    manifest, record = Bundle.open(folder, contents=False).manifest, engine.record
    graphs = [spec.file for stages in manifest.graphs.values() for spec in stages.values()]
    (graph,) = [name for name in graphs if manifest.files[name].sha256 == record.key.graph][:1]
    weights = read_weights(folder / graph)
    return {
        "weights_mb": weights.total_bytes / 1e6,
        "parse_s": record.seconds["parse"],
        "build_s": record.seconds["build"],
        "peak_mib": (record.peak_bytes - weights.total_bytes) / _MIB,
        "foretold_mib": build_memory(weights, installed(target).flavour, current_gpu()).host_bytes / _MIB,
        "engine_mb": record.engine.bytes / 1e6,
    }


if __name__ == "__main__":
    main()
