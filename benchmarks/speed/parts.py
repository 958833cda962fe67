"""What encoding a part of an image costs, at real widths: the vision encoder's time by the share of visual tokens.

    python benchmarks/speed/parts.py [--bundle DIR] [--visual-tokens 1024] [--runs 5] [--json]

Parts are encoded in turn in one run, medians are printed: a block in the middle of the image, as zooming and a changed
place are, and cells scattered at random, the worst case, whose attention windows are mostly padding. Without a bundle,
one of Qwen2.5-VL-3B's widths is made with ``make_checkpoint.py``, with a quarter of its vision blocks; one in eight of
them attends to everything, as in the whole model.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image

from benchmarks.speed.pruning import image_of
from benchmarks.speed.scene import make_bundle
from glimpse_runtime import load
from glimpse_runtime.arrays import IntArray
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.stats import Stats

SHARES = (0.1, 0.25, 0.5, 1.0)
DEPTH = 8


def block(share: float, rows: int, columns: int) -> IntArray:
    """Returns the cells of a block in the middle, of about so much of the image."""
    side = math.sqrt(share)
    high, wide = max(1, round(rows * side)), max(1, round(columns * side))
    mask = np.zeros((rows, columns), np.bool_)
    top, left = (rows - high) // 2, (columns - wide) // 2
    mask[top : top + high, left : left + wide] = True
    return np.flatnonzero(mask)


def scattered(share: float, rows: int, columns: int) -> IntArray:
    """Returns cells drawn at random."""
    count = max(1, round(share * rows * columns))
    return np.sort(np.random.default_rng(0).permutation(rows * columns)[:count])


def measure(bundle: Path, visual_tokens: int, runs: int) -> dict[str, object]:
    """Returns the medians by share, and each to that of the whole image."""
    with load(bundle, scene_cache_bytes=0) as vlm:
        pipeline = vlm._open_pipeline()
        patches = vlm._reading.family.patches(Image.fromarray(image_of(visual_tokens)))
        rows, columns = patches.grid.merged
        parts = {"1": None} | {
            f"{make.__name__} {share:g}": make(share, rows, columns)
            for share in SHARES[:-1]
            for make in (block, scattered)
        }
        spent_ms: dict[str, list[float]] = {name: [] for name in parts}
        for run in range(runs + 1):
            for name, cells in parts.items():
                stats = Stats()
                pipeline.encode(patches, stats, Interrupt(), cells)
                if run:  # the first one warms up
                    spent_ms[name].append(stats.stage_ms["vision"])
    medians = {name: statistics.median(values) for name, values in spent_ms.items()}
    shares = {name: 1.0 if cells is None else len(cells) / (rows * columns) for name, cells in parts.items()}
    return {
        "visual_tokens": rows * columns,
        "runs": runs,
        "parts": {
            name: {"share": shares[name], "vision_ms": median, "to_whole": median / medians["1"]}
            for name, median in medians.items()
        },
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--visual-tokens", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle or make_bundle(Path(temporary), depth=DEPTH)
        result = measure(bundle, options.visual_tokens, options.runs)
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
