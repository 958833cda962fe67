"""What pruning saves in the decoder, and how near prefill and decoding come to what the machine can do.

    python benchmarks/speed/pruning.py [--bundle DIR] [--visual-tokens 1024] [--keep 0.111] [--pre NAME --pre-keep 0.5]
                                 [--runs 5] [--json]

One image is encoded once; then the prompt is prefilled pruned and unpruned in turn, and decoded after each. Medians.
With ``--pre`` the pruned prefill has a first stage, whose own time counts.
Without a bundle, one of Qwen2.5-VL-3B's widths and a sixth of its depth is made with ``make_checkpoint.py``: the scorer
is whole, so a shallower decoder would give it too large a share.

Prefill counts every product of weights and attention; its peak is the faster of float32 and eight-bit products on all
cores. Decoding counts the bytes of all decoder weights and of the KV cache's valid rows, read once per token.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.machine import float_flops_per_s, integer_flops_per_s, matrix_values, read_bytes_per_s
from benchmarks.speed.scene import make_bundle
from glimpse_runtime import PruneReport, Pruning, PruningError, Session, load
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.files.hashing import sha256_of
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.request import make_request
from glimpse_runtime.session.seeing import encode_into, read
from glimpse_runtime.stats import Stats

QUESTION = "What colour is the circle in the picture?"
STEPS = 24
LAYERS = 6
PREFILL = ("preselect", "lower", "score", "select", "compact", "upper")


def image_of(visual_tokens: int) -> np.ndarray:
    """Returns noise of so many visual tokens, about square."""
    rows = next(side for side in range(math.isqrt(visual_tokens), 0, -1) if visual_tokens % side == 0)
    size = (28 * rows, 28 * (visual_tokens // rows), 3)
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


class Runs:
    """Prefills and decodes one prompt again and again."""

    def __init__(self, vlm: Session, visual_tokens: int) -> None:
        """Encodes the image."""
        self._pipeline = vlm._open_pipeline()
        scene, pictures = read(image_of(visual_tokens), None, vlm._family)
        self.prompt = vlm._build_prompt(QUESTION, scene.grids, None, ())
        request = make_request(None, None, 1, None)
        self.vision = request.stats
        encode_into(scene, pictures, self._pipeline, vlm._family, request)
        self._visual = scene.visual
        self.total = sum(grid.visual_tokens for grid in scene.grids)

    def once(self, pruning: Pruning) -> tuple[Stats, PruneReport]:
        """Returns the times of a prefill and ``STEPS`` decode steps, and what pruning did."""
        stats, interrupt = Stats(), Interrupt()
        entry = self._pipeline.enter(self.prompt, self._visual, pruning, stats, interrupt)
        logits, report = self._pipeline.prefill(entry, self._visual, None, pruning, stats, interrupt)
        for _ in range(STEPS):
            logits = self._pipeline.decode(int(logits.argmax()), stats, interrupt)
        return stats, report


def flops(bundle: Bundle, lower_rows: int, upper_rows: int) -> float:
    """Returns the operations of a prefill: two for each value of a matrix and row, and attention's products."""
    text, total = bundle.manifest.text, 0.0
    stages = bundle.manifest.stages_of(bundle.manifest.dialects[0])
    for stage, count in (("lower", lower_rows), ("upper", upper_rows)):
        values = matrix_values(str(bundle.path(stages[stage].file)))
        head = values.pop("logits", 0)
        layers = text.lower_layers if stage == "lower" else text.layers - text.lower_layers
        attention = 2 * layers * text.heads * text.head_dim * count * count  # causal: half of all pairs, two products
        total += 2.0 * sum(values.values()) * count + 2.0 * head + attention
    return total


def measure(folder: Path | None, visual_tokens: int, pruned: Pruning, runs: int) -> dict[str, object]:
    """Returns all figures."""
    for path in (folder or packaged_bundle()).iterdir():  # a warm start: the files are in the system's memory
        sha256_of(path)
    start = time.perf_counter()
    with load(folder, warmup="off", scene_cache_bytes=0) as vlm:
        load_s = time.perf_counter() - start
        work = Runs(vlm, visual_tokens)
        kinds = {"unpruned": Pruning(enabled=False), "pruned": pruned}
        for pruning in kinds.values():  # warms up
            work.once(pruning)
        found: dict[str, list[Stats]] = {kind: [] for kind in kinds}
        reports = {}
        for _ in range(runs):
            for kind, pruning in kinds.items():
                stats, reports[kind] = work.once(pruning)
                found[kind].append(stats)
        bundle, peak_rss_bytes = vlm.bundle, work.vision.peak_bytes
    stages = {
        kind: {name: statistics.median(stats.stage_ms[name] for stats in each) for name in (*PREFILL, "decode")}
        for kind, each in found.items()
    }
    prefill_ms = {
        kind: statistics.median(sum(s.stage_ms[n] for n in PREFILL) for s in each) for kind, each in found.items()
    }
    step_ms = {kind: stage["decode"] / STEPS for kind, stage in stages.items()}
    text_rows = len(work.prompt.ids) - work.total
    report = reports["pruned"]
    whole, entered = len(work.prompt.ids), work.total if report.pre_kept is None else report.pre_kept
    rows = {"unpruned": (whole, whole), "pruned": (text_rows + entered, text_rows + report.kept)}
    operations = {kind: flops(bundle, lower, upper) for kind, (lower, upper) in rows.items()}
    step_bytes = _step_bytes(bundle, whole + STEPS // 2)
    peaks = {"float32": float_flops_per_s(), "int8": integer_flops_per_s()}
    bandwidth = read_bytes_per_s()
    return {
        "prefill_ratio": prefill_ms["unpruned"] / prefill_ms["pruned"],
        "prefill_ratio_limit": operations["unpruned"] / operations["pruned"],
        "decode_bandwidth_share": step_bytes / (step_ms["unpruned"] / 1e3) / bandwidth,
        "prefill_flops_share": operations["unpruned"] / (prefill_ms["unpruned"] / 1e3) / max(peaks.values()),
        "prefill_ms": prefill_ms,
        "decode_tokens_per_s": {kind: 1e3 / spent for kind, spent in step_ms.items()},
        "vision_ms": work.vision.stage_ms["vision"],
        "stage_ms": stages,
        "kept": report.kept,
        "entered": entered,
        "visual_tokens": work.total,
        "prompt_tokens": whole,
        "load_s": load_s,
        "peak_rss_bytes": peak_rss_bytes,
        "read_bytes_per_s": bandwidth,
        "flops_per_s": peaks,
        "runs": runs,
    }


def _step_bytes(bundle: Bundle, rows: int) -> float:
    """Bytes that decoding one token reads: the decoder's weights, a shared LM head, and the cache's valid rows."""
    manifest = bundle.manifest
    weights = manifest.files["text.data"].bytes
    upper = bundle.path(manifest.stages_of(manifest.dialects[0])["upper"].file)
    if manifest.embedding.file in upper.read_bytes().decode("latin-1"):
        weights += manifest.files[manifest.embedding.file].bytes
    item = 2 if manifest.precision["kv_cache"] == "fp16" else 4
    return weights + 2 * manifest.text.layers * manifest.text.kv_heads * manifest.text.head_dim * item * rows


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--visual-tokens", type=int, default=1024)
    parser.add_argument("--keep", type=float, default=0.111)
    parser.add_argument("--pre", help="method of a first stage")
    parser.add_argument("--pre-keep", type=float, help="share it keeps; 0.5 with --pre")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    share = options.pre_keep if options.pre is None or options.pre_keep is not None else 0.5
    try:
        pruned = Pruning(max_keep_ratio=options.keep, pre=options.pre, pre_keep=share)
    except PruningError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle or make_bundle(Path(temporary), LAYERS)
        result = measure(bundle, options.visual_tokens, pruned, options.runs)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
