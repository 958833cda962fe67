"""What every stage takes on a GPU, pruned and unpruned, and the same model in torch.

    python benchmarks/speed/gpu/stages.py --bundle DIR --device cuda|tensorrt|tensorrt-rtx [--torch BASE] [--json]

Times are medians of CUDA events on the stream that everything runs on: what the device needed, however far the host was
ahead of it. Time to first token is the host's, from the patches of an image to the first token's logits. Pruned keeps
the same share of the visual tokens whatever the scorer says, so random weights serve as well as trained ones.
``--torch`` names the checkpoint that the bundle was made of: transformers runs it in bfloat16, unpruned, on this GPU.

Exit status: 0, 3 when there is no such device.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime import BackendError, Pruning, Session, load
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.resources import Event
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.prompt import Prompt, place
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.stats import Stats

DEVICES = ("cuda", "tensorrt", "tensorrt-rtx")
STAGES = ("vision", "lower", "score", "compact", "upper", "decode")
WORD = 5  # any token that is not a special one
NO_GPU = 3


class EventStats(Stats):
    """Stage times by CUDA events."""

    def __init__(self, cuda: Cuda) -> None:
        """Takes the device whose stream the stages run on."""
        super().__init__()
        self._cuda = cuda
        self._spans: list[tuple[str, Event, Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks where a stage begins and ends on the stream."""
        start, stop = self._cuda.event(is_timed=True), self._cuda.event(is_timed=True)
        start.record()
        yield
        stop.record()
        self._spans.append((name, start, stop))

    def milliseconds(self) -> dict[str, float]:
        """Waits for the device and returns the sum of every stage."""
        self._cuda.synchronize()
        for name, start, stop in self._spans:
            self.stage_ms[name] += stop.milliseconds_since(start)
            start.close()
            stop.close()
        self._spans = []
        return self.stage_ms


class Request:
    """One image and a prompt of so many tokens around it."""

    def __init__(self, vlm: Session, visual_tokens: int, text_tokens: int) -> None:
        """Draws noise."""
        rows = next(side for side in range(math.isqrt(visual_tokens), 0, -1) if visual_tokens % side == 0)
        manifest = vlm.bundle.manifest
        family, side = open_family(manifest), manifest.vision.patch_size * manifest.vision.merge_size
        size = (side * rows, side * (visual_tokens // rows), 3)
        picture = _picture(np.random.default_rng(0).integers(0, 256, size, np.uint8))
        grid = family.grid(picture)
        if grid.visual_tokens != visual_tokens:
            raise SystemExit(
                f"an image of {visual_tokens} visual tokens is resized to {grid.visual_tokens}; name another number"
            )
        self.patches = family.patches(picture)
        words = np.full(text_tokens, WORD)
        self.ids = np.concatenate([words[:10], np.full(visual_tokens, manifest.tokens.image), words[10:]])
        self.prompt: Prompt = place(self.ids, (grid,), manifest.tokens.image, family)


def run(vlm: Session, request: Request, pruning: Pruning, steps: int) -> dict[str, float]:
    """Returns the milliseconds of every stage of one request, of its first token, and of one decode step."""
    pipeline = vlm._open_pipeline()
    stats, interrupt = EventStats(pipeline._backend.cuda), Interrupt()
    start = time.perf_counter()
    visual = [pipeline.encode(request.patches, stats, interrupt)]
    entry = pipeline.enter(request.prompt, visual, pruning, stats, interrupt)
    logits, report = pipeline.prefill(entry, visual, None, pruning, stats, interrupt)
    ttft_ms = (time.perf_counter() - start) * 1e3
    for _ in range(steps):
        logits = pipeline.decode(int(logits.argmax()), stats, interrupt)
    spent = stats.milliseconds()
    times = {name: spent[name] for name in STAGES}
    times["decode"] /= steps
    return {**times, "ttft": ttft_ms, "kept": float(report.kept)}


def medians(one: Callable[[], dict[str, float]], repeats: int) -> dict[str, float]:
    """Runs once to warm up and then takes the median of every figure."""
    one()
    found = [one() for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in found) for name in found[0]}


def in_torch(base: Path, request: Request, steps: int) -> Callable[[], dict[str, float]]:
    """Returns what measures the same figures of transformers, as far as it has them.

    Args:
        base: the checkpoint.
        request: image and prompt.
        steps: tokens to decode.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16).cuda().eval()
    grid = request.patches.grid
    inputs = {
        "input_ids": torch.from_numpy(request.ids)[None].cuda(),
        "attention_mask": torch.ones(1, len(request.ids), dtype=torch.long).cuda(),
        "pixel_values": torch.from_numpy(request.patches.pixel_values).cuda().bfloat16(),
        "image_grid_thw": torch.tensor([[1, grid.rows, grid.columns]]).cuda(),
    }

    def spent_ms(tokens: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        stop.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(stop))

    def one() -> dict[str, float]:
        first_ms = spent_ms(1)
        return {"ttft": first_ms, "decode": (spent_ms(1 + steps) - first_ms) / steps}

    return one


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--device", choices=DEVICES, required=True)
    parser.add_argument("--visual-tokens", type=int, default=1024)
    parser.add_argument("--text-tokens", type=int, default=60)
    parser.add_argument("--keep", type=float, default=0.15, help="share of the visual tokens that pruning keeps")
    parser.add_argument("--steps", type=int, default=64, help="decode steps of a request")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--torch", type=Path, metavar="BASE", help="checkpoint to run in torch as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Runs everything and prints it."""
    asked = arguments(words)
    ways = {
        "unpruned": Pruning(enabled=False),
        "pruned": Pruning(threshold=0.0, max_keep_ratio=asked.keep, min_keep=1),
    }
    try:
        with load(asked.bundle, device=asked.device, warmup="largest", scene_cache_bytes=0) as vlm:
            request = Request(vlm, asked.visual_tokens, asked.text_tokens)
            found = {
                name: medians(lambda pruning=pruning: run(vlm, request, pruning, asked.steps), asked.repeats)
                for name, pruning in ways.items()
            }
            memory = vlm.memory_plan()
    except BackendError as error:
        print(f"This cannot run on the device {asked.device}: {error}", file=sys.stderr)
        return NO_GPU
    if asked.torch is not None:  # the session's memory is free by now
        found["torch"] = medians(in_torch(asked.torch, request, asked.steps), asked.repeats)
    if asked.json:
        print(json.dumps({"device": asked.device, "milliseconds": found, "memory": memory}, indent=2))
    else:
        print(as_table(found))
    return 0


def as_table(found: dict[str, dict[str, float]]) -> str:
    """Returns the figures side by side, in milliseconds."""
    lines = [f"{'ms':<10}" + "".join(f"{name:>12}" for name in found)]
    for figure in (*STAGES, "ttft"):
        cells = (f"{times[figure]:12.3f}" if figure in times else f"{'':>12}" for times in found.values())
        lines.append(f"{figure:<10}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
