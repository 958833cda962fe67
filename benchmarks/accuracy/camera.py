"""What a stream saves of the vision encoder on a fixed camera's frames, and what it costs in accuracy.

    python benchmarks/accuracy/camera.py [--bundle DIR] [--scenes 48] [--frames 12] [--sigma 2] [--seed 0] [--json]

In every frame one object of a pocket scene (``glimpse_models.pocket.camera``) moves or is replaced, under noise, and a
stream without a further full pass sees it. Behind the last frame, questions about it are asked of the stream's scene
(``stream``, and ``follow`` with ``Pruning(follow=1)`` after the same question about the frame before), of the same
frame encoded whole (``full``), and, as the floor, of the frame before (``last``) and of the first one (``first``). All
prune as the bundle says. Intervals are of a bootstrap over scenes: docs/use/streams.md.

With --errors nothing is asked, so that a bundle of random weights of a real model's depth does as well: shares and
errors alone, and the distance of two frames of one picture, both encoded whole (``noise``): what noise does by itself.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy.comparison.facts import model_facts, rounded
from benchmarks.accuracy.comparison.intervals import Bootstrap
from glimpse_models.pocket.camera import Camera
from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.questions import ask
from glimpse_runtime import Answer, GlimpseError, Pruning, Scene, load
from glimpse_runtime.arrays import Array

SIZES = ((448, 448), (640, 480), (672, 672), (896, 896))
QUESTIONS = 7
WAYS = ("full", "stream", "follow", "last", "first")


@dataclass(frozen=True)
class Seen:
    """One scene over time.

    Attributes:
        tokens: visual tokens of a frame.
        shares: (frames - 1,) share of them that the stream computed.
        errors: (frames - 1,) relative L2 distance of a frame's visual tokens to those of the frame encoded whole.
        right: by way, (questions,) whether the answer was right.
        entered: (questions,) share of the visual tokens that entered layer 0 where the mask was followed.
    """

    tokens: int
    shares: list[float]
    errors: list[float]
    right: dict[str, list[bool]]
    entered: list[float]


class Traced:
    """A session, and the visual tokens that it computed last."""

    def __init__(self, bundle: Path | None) -> None:
        """Loads the bundle."""
        self.embeds: Array = np.empty(0)
        self.vlm = load(bundle, scene_cache_bytes=0, trace=self._see)

    def _see(self, name: str, value: Array) -> None:
        if name == "image_embeds":
            self.embeds = value.copy()


def watch(streaming: Traced, whole: Traced, rng: Random, size: tuple[int, int], frames: int, sigma: float) -> Seen:
    """Shows a camera's frames to a stream and asks about the last one."""
    camera = Camera(rng, *size, sigma)
    shares, errors, scenes = [], [], []
    with streaming.vlm.stream(refresh=frames + 1) as stream:
        for number in range(frames):
            if number:
                camera.change()
            shot = camera.shot()
            if number == frames - 1:
                questions = ask(rng, shot.objects, QUESTIONS)
                for question in questions:  # what the frame before kept
                    scenes[-1].ask(question.text, pruning=Pruning(follow=1), max_new_tokens=1)
            scenes.append(stream.update(shot.image))
            full = whole.vlm.encode(shot.image)
            if number:
                errors.append(distance(streaming.embeds, whole.embeds))
                shares.append(told(scenes[-1]))
        given: dict[str, tuple[Scene, Pruning]] = {
            "full": (full, Pruning()),
            "stream": (scenes[-1], Pruning()),
            "follow": (scenes[-1], Pruning(follow=1)),
            "last": (scenes[-2], Pruning()),
            "first": (scenes[0], Pruning()),
        }
        right: dict[str, list[bool]] = {way: [] for way in WAYS}
        entered = []
        for question in questions:
            for way, (scene, pruning) in given.items():
                answer = scene.ask(question.text, pruning=pruning, max_new_tokens=MAX_NEW_TOKENS)
                right[way].append(answer.text.strip() == question.answer)
                if way == "follow":
                    entered.append(entering(answer))
    return Seen(answer.pruning.total, shares, errors, right, entered)


def errors(bundle: Path | None, scenes: int, frames: int, sigma: float, seed: int) -> dict[str, Any]:
    """Returns what the stream computed of every frame but the first, and how far it is from a whole encode."""
    streaming, whole = Traced(bundle), Traced(bundle)
    found: list[list[float]] = []
    shares, noise = [], []
    with streaming.vlm, whole.vlm:
        for number in range(scenes):
            camera = Camera(Random(f"camera/{seed}/{number}"), *SIZES[number % len(SIZES)], sigma)
            stream, off = streaming.vlm.stream(refresh=frames + 1), []
            stream.update(camera.shot().image)
            for _ in range(frames - 1):
                camera.change()
                image = camera.shot().image
                shares.append(told(stream.update(image)))
                whole.vlm.encode(image)
                off.append(distance(streaming.embeds, whole.embeds))
            found.append(off)
            before = whole.embeds
            whole.vlm.encode(camera.shot().image)
            noise.append(distance(whole.embeds, before))
    return {
        **{"scenes": scenes, "frames": frames, "sigma": sigma, "seed": seed},
        "vision_share": float(np.mean(shares)),
        "error": float(np.mean(found)),
        "drift": np.mean(found, axis=0).tolist(),
        "noise": float(np.mean(noise)),
    }


def told(scene: Scene) -> float:
    """Returns the share of a frame that was computed, as its answers say."""
    report = scene.ask("?", pruning=Pruning(enabled=False), max_new_tokens=1).pruning.stream
    assert report is not None
    return report.changed_share


def entering(answer: Answer) -> float:
    """Returns the share of the visual tokens that entered layer 0."""
    report = answer.pruning.stream
    return 1.0 if report is None or report.entered is None else float(report.entered.mean())


def distance(found: Array, expected: Array) -> float:
    """Returns the relative L2 distance."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def summary(seen: list[Seen], seed: int) -> dict[str, Any]:
    """Returns accuracies, differences to the whole encode with their intervals, shares and errors."""
    scenes = [number for number, one in enumerate(seen) for _ in one.entered]
    right = {way: np.concatenate([one.right[way] for one in seen]).astype(float) for way in WAYS}
    bootstrap, errors = Bootstrap(scenes, seed), np.array([one.errors for one in seen])
    return {
        "questions": len(scenes),
        **{f"accuracy_{way}": float(values.mean()) for way, values in right.items()},
        "to_full": {
            way: {"mean": float((right[way] - right["full"]).mean()), "interval": interval}
            for way in WAYS[1:]
            for interval in [bootstrap.interval(right[way] - right["full"])]
        },
        "same_right": float((right["stream"] == right["full"]).mean()),
        "vision_share": float(np.mean([one.shares for one in seen])),
        "entered_share": float(np.mean([share for one in seen for share in one.entered])),
        "error": float(errors.mean()),
        "drift": errors.mean(axis=0).tolist(),
    }


def sequences(bundle: Path | None, scenes: int, frames: int, sigma: float, seed: int) -> Iterator[Seen]:
    """Yields one scene after the other."""
    streaming, whole = Traced(bundle), Traced(bundle)
    with streaming.vlm, whole.vlm:
        for number in range(scenes):
            rng = Random(f"camera/{seed}/{number}")
            yield watch(streaming, whole, rng, SIZES[number % len(SIZES)], frames, sigma)


def measure(bundle: Path | None, scenes: int, frames: int, sigma: float, seed: int) -> dict[str, Any]:
    """Returns the summary, on all scenes and by the number of visual tokens, and on what it was measured."""
    seen = []
    for one in sequences(bundle, scenes, frames, sigma, seed):
        seen.append(one)
        if sys.stderr.isatty():
            print(f"\rscene {len(seen)} of {scenes}", end="", file=sys.stderr, flush=True)
    with load(bundle, warmup="off") as vlm:
        facts = model_facts(vlm)
    sizes = sorted({one.tokens for one in seen})
    rows = [{"tokens": size, **summary([one for one in seen if one.tokens == size], seed)} for size in sizes]
    return {
        "model": facts,
        **{"scenes": scenes, "frames": frames, "sigma": sigma, "seed": seed},
        **summary(seen, seed),
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown."""
    titles = ("tokens", "questions", "vision", *WAYS, "enter", "error", "at the last frame")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in (*report["rows"], report):
        cells = [str(row.get("tokens", "all")), str(row["questions"]), f"{row['vision_share']:.0%}"]
        cells += [f"{row['accuracy_full']:.3f}", *(points(row["to_full"][way]) for way in WAYS[1:])]
        cells += [f"{row['entered_share']:.0%}", f"{row['error']:.1%}", f"{row['drift'][-1]:.1%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def points(difference: dict[str, Any]) -> str:
    """Returns a difference of accuracies in points."""
    low, high = difference["interval"]
    return f"{difference['mean'] * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle of a pocket model (default: the packaged one)")
    parser.add_argument("--scenes", type=int, default=48, help="scenes (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=12, help="frames of each scene (default: %(default)s)")
    parser.add_argument("--sigma", type=float, default=2.0, help="noise in levels of 255 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--errors", action="store_true", help="ask nothing: shares and errors alone, as JSON")
    options = parser.parse_args()
    if options.scenes < 1 or options.frames < 2 or not 0 <= options.sigma <= 255:
        parser.error("there must be a scene, two frames and noise of 0 to 255")
    try:
        way = errors if options.errors else measure
        report = rounded(way(options.bundle, options.scenes, options.frames, options.sigma, options.seed))
    except GlimpseError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(report) if options.json or options.errors else table(report))


if __name__ == "__main__":
    main()
