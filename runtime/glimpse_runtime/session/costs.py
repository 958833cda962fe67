"""What stages cost on this machine with this bundle: measured once, kept in the cache, and predicted from."""

import hashlib
import json
import logging
import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.errors import InputError
from glimpse_runtime.files.atomic import write_text
from glimpse_runtime.files.places import cache_folder
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.answer import Answer

log = logging.getLogger("glimpse")

FIRST_STAGE = "dart"
"""The first stage that is measured, and the one that a budget chooses."""
LARGEST_TOKENS = 1024
"""Larger images are not measured."""
SIZES, RUNS = 5, 5
SELECTING = ("score", "select", "compact")
STAGES = ("preprocess", "vision", "preselect", "lower", "select", "upper", "rest")
_QUESTION = "What is it?"


@dataclass(frozen=True)
class Work:
    """How much a request has to do.

    Attributes:
        patches: patches per run of the vision encoder.
        source_pixels: of all images as given.
        visual: visual tokens there are to choose from.
        lower_rows: rows per run of the lower layers.
        upper_rows: rows of the upper layers.
        scored: visual tokens per run of the scorer.
        first_stage: whether one chooses what enters layer 0.
    """

    patches: tuple[int, ...]
    source_pixels: int
    visual: int
    lower_rows: tuple[int, ...]
    upper_rows: int
    scored: tuple[int, ...]
    first_stage: bool

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Returns what each stage's time depends on, one number per run of it."""
        pixels = sum(self.patches) + self.source_pixels // 1000
        return {
            "preprocess": (pixels,),
            "vision": self.patches,
            "preselect": (self.visual,) if self.first_stage else (),
            "lower": self.lower_rows,
            "select": self.scored,
            "upper": (self.upper_rows,),
            "rest": (self.visual,),
        }


@dataclass(frozen=True)
class Costs:
    """Median times in milliseconds by stage and count, and how far requests lie above what they predict.

    Attributes:
        points: per stage ascending (count, milliseconds).
        margin: what a prediction is multiplied by, so that few requests take longer.
    """

    points: Mapping[str, tuple[tuple[int, float], ...]]
    margin: float

    def predicted_ms(self, work: Work) -> float:
        """Returns the time from the call to the first token, with the margin."""
        return self.margin * self._median_ms(work)

    def _median_ms(self, work: Work) -> float:
        return sum(self._stage_ms(stage, count) for stage, counts in work.counts().items() for count in counts)

    def _stage_ms(self, stage: str, count: int) -> float:
        """Between two points a line; beyond the last one as attention grows, by the square."""
        points = self.points.get(stage, ())
        if not points:
            return 0.0
        last, last_ms = points[-1]
        if count > last:
            return last_ms * (count / last) ** 2
        counts, times_ms = zip(*points, strict=True)
        return float(np.interp(count, counts, times_ms))


def place_of(manifest: Manifest, device: str, threads: int | None) -> Path:
    """Returns where the costs of a bundle on this machine are kept."""
    machine = (platform.node(), platform.machine(), str(os.cpu_count()), device, str(threads), _engine())
    key = hashlib.sha256("\n".join((manifest.to_json(), *machine)).encode()).hexdigest()[:32]
    return cache_folder() / "costs" / f"{key}.json"


def read(path: Path) -> Costs | None:
    """Returns costs that were measured before; None where there are none, or none that make sense."""
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("the measured costs in %s cannot be used and are ignored: %s", path, error)
        return None


def write(path: Path, costs: Costs) -> None:
    """Keeps costs for later sessions, where the cache can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"points": dict(costs.points), "margin": costs.margin}))
    except OSError as error:
        log.warning("measured costs cannot be kept for later sessions: %s", error)


def measure(ask: Callable[..., Answer], manifest: Manifest, family: Family) -> Costs:
    """Asks about noise of several sizes, unpruned and with two stages, and takes the times apart.

    Args:
        ask: a session's.
        manifest: the bundle's.
        family: the model's, with the limits of the session.
    """
    try:
        limits = family.at_most(1) is not family
    except InputError:
        limits = False
    profiles = manifest.profiles
    most = min(profiles["visual_tokens"].max, profiles["context"].max // 2, LARGEST_TOKENS)
    sizes = sorted({max(1, round(most ** (0.35 + 0.65 * step / (SIZES - 1)))) for step in range(SIZES)})
    rng, done = np.random.default_rng(0), list[tuple[Work, Answer]]()
    plain = Pruning(threshold=0.0, max_keep_ratio=1.0, min_keep=0, anchors=())
    both = Pruning(max_keep_ratio=0.1, threshold=0.0, min_keep=0, pre=FIRST_STAGE, pre_keep=0.5, anchors=())
    for run in range(RUNS + 1):
        for tokens in sizes if limits else sizes[-1:]:
            for pruning in (plain, both):
                side = int(28 * math.sqrt(tokens))
                image = rng.integers(0, 256, (2 * side, 2 * side, 3), np.uint8)
                limit = {"max_visual_tokens": tokens} if limits else {}
                answer = ask(image, _QUESTION, pruning=pruning, max_new_tokens=1, **limit)
                if run:  # the first one of each warms up
                    done.append((_work_of(answer, family), answer))
    return _fitted(done)


def _work_of(answer: Answer, family: Family) -> Work:
    report = answer.pruning
    entered = report.total if report.pre_kept is None else report.pre_kept
    text = answer.stats.prompt_tokens - report.total
    pixels = sum(width * height for width, height in report.image_sizes)
    merge = family.blank(1).grid.merge
    return Work(
        patches=tuple(mask.size * merge**2 for mask in report.keep_masks),
        source_pixels=pixels,
        visual=report.total,
        lower_rows=(text + entered,),
        upper_rows=text + report.kept,
        scored=(entered,),
        first_stage=report.pre is not None,
    )


def _fitted(done: Iterable[tuple[Work, Answer]]) -> Costs:
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    pairs = list(done)
    for work, answer in pairs:
        spent = answer.stats.stage_ms
        own = {stage: spent[stage] for stage in STAGES if stage not in ("select", "rest")}
        own["select"] = sum(spent[stage] for stage in SELECTING)
        own["rest"] = max(answer.stats.ttft_ms - sum(own.values()), 0.0)
        for stage, counts in work.counts().items():
            if counts:
                times[stage][sum(counts)].append(own[stage])
    points = {
        stage: tuple((count, statistics.median(each)) for count, each in sorted(found.items()))
        for stage, found in times.items()
    }
    costs = Costs(points, 1.0)
    ratios = [answer.stats.ttft_ms / costs._median_ms(work) for work, answer in pairs]
    return Costs(points, max(1.0, float(np.quantile(ratios, 0.98))))


def _parsed(record: Any) -> Costs:
    """Reads what ``write`` has written.

    Raises:
        ValueError: it is something else.
    """
    points = {
        stage: tuple((int(count), float(spent)) for count, spent in record["points"][stage])
        for stage in STAGES
        if stage in record["points"]
    }
    margin = float(record["margin"])
    for stage in ("vision", "lower", "upper"):
        if not points.get(stage):
            raise ValueError(f"no times of the stage {stage}")
    for each in points.values():
        counts = [count for count, _ in each]
        if counts != sorted(set(counts)) or not all(0 <= spent < math.inf for _, spent in each) or counts[:1] < [0]:
            raise ValueError("times are no numbers, or not in order")
    if not 1 <= margin < math.inf:
        raise ValueError("the margin is below 1")
    return Costs(points, margin)


def _engine() -> str:
    """The installed inference engine, whose version decides about times."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return ""
