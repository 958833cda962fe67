"""Time to the first token with vision in it, at a 3B's widths: unpruned, glimpse, two stages, zoom and a stream.

    python benchmarks/speed/seeing.py [--bundle DIR] [--visual-tokens 1024] [--layers 6] [--runs 5] [--json]

All are measured in turn in one run; medians, and their ratio to unpruned. Without a bundle, one of Qwen2.5-VL-3B's
widths is made with ``make_checkpoint.py`` (int4, vision int8), decoder and vision encoder cut to the same share of
their depth. The scorer is whole, so with pruning a cut decoder pays too much for it.

Weights are random, so how much is kept is given: ``--keep`` of the visual tokens, half of them before layer 0 with
``--pre``, ``--zoom-share`` of the image in full after a copy with a quarter of its pixels. A stream's frames change in
5, 13 and 30 % of their windows, scattered at random; a row is null where this version has no streams.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.speed.pruning import image_of
from benchmarks.speed.scene import make_bundle
from glimpse_export.weights.precision import Precision
from glimpse_models import MODELS
from glimpse_runtime import Pruning, Session, load

QUESTION = "What colour is the circle in the picture?"
CHANGED = (5, 13, 30)
WINDOW = 112
INT4 = Precision.choose("int4")


def ways(options: argparse.Namespace) -> dict[str, Pruning]:
    """Returns the pruning options by row."""
    return {
        "unpruned": Pruning(enabled=False),
        "glimpse": Pruning(max_keep_ratio=options.keep, threshold=0.0),
        "two_stage": Pruning(max_keep_ratio=options.keep, threshold=0.0, pre=options.pre, pre_keep=0.5),
        "zoom": Pruning(zoom=0.25, zoom_threshold=0.0, zoom_most=options.zoom_share),
    }


def changed(frame: np.ndarray, percent: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a frame with so many of its whole windows of 112 pixels replaced by new noise."""
    out, (rows, columns) = frame.copy(), (side // WINDOW for side in frame.shape[:2])
    for place in rng.permutation(rows * columns)[: round(percent / 100 * rows * columns)]:
        top, left = WINDOW * (place // columns), WINDOW * (place % columns)
        out[top : top + WINDOW, left : left + WINDOW] = rng.integers(0, 256, (WINDOW, WINDOW, 3), np.uint8)
    return out


def stream_of(vlm: Session, frame: np.ndarray, pruning: Pruning) -> Any:
    """Returns a stream that has seen a first frame; None where there are no streams."""
    opened = getattr(vlm, "stream", None)
    if opened is None:
        return None
    stream = opened(refresh=10_000, pruning=pruning)
    stream.update(frame).ask(QUESTION, max_new_tokens=1)
    return stream


def measure(bundle: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns all figures."""
    times: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, float] = {}
    frame, rng = image_of(options.visual_tokens), np.random.default_rng(1)
    kinds = ways(options)
    # Two sessions, as a stream takes the place of its session's vision encoder.
    with load(bundle, scene_cache_bytes=0) as vlm, load(bundle, scene_cache_bytes=0) as camera:
        stream, seen = stream_of(camera, frame, kinds["two_stage"]), frame
        for run in range(options.runs + 1):
            for name, pruning in kinds.items():
                answer = vlm.ask(frame, QUESTION, pruning=pruning, max_new_tokens=1)
                assert answer.pruning.total == options.visual_tokens
                shares[name] = answer.pruning.kept_ratio
                if run:  # the first one warms up
                    times[name].append(answer.stats.ttft_ms)
            for percent in CHANGED if stream is not None else ():
                seen = changed(seen, percent, rng)
                start = time.perf_counter()
                stream.update(seen).ask(QUESTION, max_new_tokens=1)
                if run:
                    times[f"stream_{percent}"].append((time.perf_counter() - start) * 1e3)
    ttft_ms = {name: statistics.median(each) for name, each in times.items()}
    rows = [name for name in kinds if name != "unpruned"] + [f"stream_{percent}" for percent in CHANGED]
    return {
        **{f"ttft_ratio_{name}": ttft_ms["unpruned"] / ttft_ms[name] if name in ttft_ms else None for name in rows},
        "ttft_ms": ttft_ms,
        "kept_share": shares,
        "visual_tokens": options.visual_tokens,
        "layers": options.layers,
        "runs": options.runs,
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--visual-tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=6, help="of the decoder; vision is cut to the same share")
    parser.add_argument("--keep", type=float, default=0.111)
    parser.add_argument("--pre", default="dart")
    parser.add_argument("--zoom-share", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    whole = MODELS["qwen2.5-vl-3b"].dims
    depth = max(1, round(32 * options.layers / whole.layers))
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or make_bundle(Path(folder), options.layers, depth, INT4)
        result = measure(bundle, options)
    print(json.dumps(result) if options.json else "\n".join(f"{name:<24}{value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
