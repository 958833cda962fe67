"""Time to the first token of the first and of the second question about an image, on a model of real widths.

    python benchmarks/speed/scene.py [--bundle DIR] [--runs 5] [--json]

Both are measured in turn in one run, on images of 1,024 visual tokens; medians are printed. The bundle is made with
``make_checkpoint.py`` unless one is named.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.make_checkpoint import cut, write
from glimpse_export import ExportOptions, export
from glimpse_export.weights.precision import Precision
from glimpse_models import MODELS
from glimpse_runtime import load

SIDE = 28 * 32
FIRST, SECOND = "What colour is the circle in the picture?", "How many stars can you count in it?"


def make_bundle(folder: Path, layers: int = 3, depth: int = 3, precision: Precision | None = None) -> Path:
    """Writes checkpoint and bundle of so many layers and vision blocks below ``folder``; returns the bundle.

    Args:
        folder: an empty one.
        layers: of the decoder.
        depth: blocks of the vision encoder.
        precision: of the bundle; None is export's default.
    """
    part = cut(MODELS["qwen2.5-vl-3b"].dims, layers=layers, depth=depth, vocab=12672)
    base, adapter = write(folder / "checkpoint", part)
    written = precision or Precision()
    options = ExportOptions(str(base), str(adapter), precision=written, max_context=2048, certify="off")
    return export(options, folder / "bundle")


def measure(bundle: Path, runs: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns the medians of both times with their ratio, and the stage times of the last run."""
    rng = np.random.default_rng(0)
    first_ms, second_ms = [], []
    with load(bundle, scene_cache_bytes=0) as vlm:
        for run in range(runs + 1):
            image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            fresh = vlm.ask(image, FIRST, max_new_tokens=1)
            with vlm.encode(image) as scene:
                again = scene.ask(SECOND, max_new_tokens=1)
            assert fresh.pruning.total == again.pruning.total == 1024
            if run:  # the first one warms up
                first_ms.append(fresh.stats.ttft_ms)
                second_ms.append(again.stats.ttft_ms)
    first, second = statistics.median(first_ms), statistics.median(second_ms)
    result = {"ttft_first_ms": first, "ttft_second_ms": second, "ratio": first / second, "runs": runs}
    return result, {"first": fresh.stats.stage_ms, "second": again.stats.stage_ms}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result, stages = measure(options.bundle or make_bundle(Path(temporary)), options.runs)
    for name, stage_ms in stages.items():
        print(f"{name} question: " + ", ".join(f"{stage} {spent:.0f} ms" for stage, spent in stage_ms.items()))
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
