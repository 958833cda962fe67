"""What pruning saves in the decoder, and how near prefill and decoding come to what the machine can do.

    python benchmarks/pruning.py [--bundle DIR] [--visual-tokens 1024] [--keep 0.111] [--runs 5] [--json]

One image is encoded once; then the prompt is prefilled pruned and unpruned in turn, and decoded after each. Medians.
Without a bundle, one of Qwen2.5-VL-3B's widths and a twelfth of its depth is made with ``make_checkpoint.py``.

Prefill counts every product of weights and attention; its peak is the faster of float32 and eight-bit products on all
cores. Decoding counts the bytes of all decoder weights and of the KV cache's valid rows, read once per token.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import float_flops_per_s, integer_flops_per_s, matrix_values, read_bytes_per_s
from scene import make_bundle

from glimpse_runtime import Pruning, Session, load
from glimpse_runtime.bundle import Bundle, packaged_bundle, sha256_of
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.stats import Stats

QUESTION = "What colour is the circle in the picture?"
STEPS = 24
PREFILL = ("lower", "score", "select", "compact", "upper")


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
        scene, pictures = vlm._read(image_of(visual_tokens), None)
        self.prompt = vlm._build_prompt(QUESTION, scene.grids, None, ())
        self.vision = Stats()
        vlm._encode_into(scene, pictures, self.vision, Interrupt())
        self._visual = scene.visual
        self.total = sum(grid.visual_tokens for grid in scene.grids)

    def once(self, pruning: Pruning) -> tuple[Stats, int]:
        """Returns the times of a prefill and ``STEPS`` decode steps, and the visual tokens kept."""
        stats, interrupt = Stats(), Interrupt()
        logits, report = self._pipeline.prefill(self.prompt, self._visual, None, pruning, stats, interrupt)
        for _ in range(STEPS):
            logits = self._pipeline.decode(int(logits.argmax()), stats, interrupt)
        return stats, report.kept


def flops(bundle: Bundle, rows: int, upper_rows: int) -> float:
    """Returns the operations of a prefill: two for each value of a matrix and row, and attention's products."""
    text, total = bundle.manifest.text, 0.0
    stages = bundle.manifest.stages_of(bundle.manifest.dialects[0])
    for stage, count in (("lower", rows), ("upper", upper_rows)):
        values = matrix_values(str(bundle.path(stages[stage].file)))
        head = values.pop("logits", 0)
        layers = text.lower_layers if stage == "lower" else text.layers - text.lower_layers
        attention = 2 * layers * text.heads * text.head_dim * count * count  # causal: half of all pairs, two products
        total += 2.0 * sum(values.values()) * count + 2.0 * head + attention
    return total


def measure(folder: Path | None, visual_tokens: int, keep: float, runs: int) -> dict[str, object]:
    """Returns all figures."""
    for path in (folder or packaged_bundle()).iterdir():  # a warm start: the files are in the system's memory
        sha256_of(path)
    start = time.perf_counter()
    with load(folder, warmup="off", scene_cache_bytes=0) as vlm:
        load_s = time.perf_counter() - start
        work = Runs(vlm, visual_tokens)
        kinds = {"unpruned": Pruning(enabled=False), "pruned": Pruning(max_keep_ratio=keep)}
        for pruning in kinds.values():  # warms up
            work.once(pruning)
        found: dict[str, list[Stats]] = {kind: [] for kind in kinds}
        kept = 0
        for _ in range(runs):
            for kind, pruning in kinds.items():
                stats, count = work.once(pruning)
                found[kind].append(stats)
                kept = count if kind == "pruned" else kept
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
    rows = {"unpruned": len(work.prompt.ids), "pruned": text_rows + kept}
    operations = {kind: flops(bundle, rows["unpruned"], count) for kind, count in rows.items()}
    step_bytes = _step_bytes(bundle, rows["unpruned"] + STEPS // 2)
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
        "kept": kept,
        "visual_tokens": work.total,
        "prompt_tokens": rows["unpruned"],
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
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle or make_bundle(Path(temporary))
        result = measure(bundle, options.visual_tokens, options.keep, options.runs)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
