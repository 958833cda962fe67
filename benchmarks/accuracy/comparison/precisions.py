"""Exports a checkpoint in several precisions, and compares what the glimpse keeps and what is answered."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.accuracy.comparison.asking import Asker, Reply
from benchmarks.accuracy.comparison.intervals import Bootstrap
from benchmarks.accuracy.comparison.ways import GLIMPSE, UNPRUNED
from glimpse_export import ExportOptions, export
from glimpse_export.weights.precision import Precision
from glimpse_models.pocket.scenes.heldout import Sample
from glimpse_runtime import load
from glimpse_runtime.arrays import BoolArray

EXACT = "fp32"
"""What the others are compared with."""


def export_all(model: str, precisions: Mapping[str, Precision], folder: Path) -> dict[str, Path]:
    """Writes a bundle for each precision below ``folder``, ``EXACT`` first, and returns them by name."""
    every = {EXACT: Precision.choose(EXACT), **precisions}
    return {
        name: export(ExportOptions(model, precision=precision, certify="off"), folder / str(index))
        for index, (name, precision) in enumerate(every.items())
    }


def compare(
    bundles: dict[str, Path], samples: Iterable[Sample], seed: int, threads: int | None, progress: Callable[[int], None]
) -> list[dict[str, object]]:
    """Returns the figures of each precision: exact match with and without the glimpse, and its kept sets against fp32.

    Args:
        bundles: by precision; ``EXACT`` is among them.
        samples: the questions, those of one scene together.
        seed: of the bootstrap.
        threads: CPU threads.
        progress: called with the number of questions that are done.
    """
    right: dict[tuple[str, str], list[bool]] = {(name, way.method): [] for name in bundles for way in WAYS}
    kept: dict[str, list[BoolArray]] = {name: [] for name in bundles}
    scenes: list[int] = []
    with contextlib.ExitStack() as stack:
        askers = {
            name: Asker(stack.enter_context(load(bundle, threads=threads, scene_cache_bytes=0)))
            for name, bundle in bundles.items()
        }
        for scene, group in groupby(samples, key=lambda sample: sample.scene):
            pictures = {}
            for sample in group:
                scenes.append(scene)
                for name, asker in askers.items():
                    picture = pictures.setdefault(name, None) or asker.look(sample.image)
                    pictures[name] = picture
                    replies = [asker.ask(picture, sample.question.text, way.pruning()) for way in WAYS]
                    for way, reply in zip(WAYS, replies, strict=True):
                        right[name, way.method].append(reply.text == sample.question.answer)
                    kept[name].append(_mask(replies[WAYS.index(GLIMPSE)]))
                progress(len(scenes))
    bootstrap = Bootstrap(scenes, seed)

    def accuracy(name: str, method: str) -> dict[str, object]:
        own, exact = (np.array(right[precision, method], float) for precision in (name, EXACT))
        interval = {} if name == EXACT else {"difference_interval": bootstrap.interval(own - exact)}
        return {"exact_match": float(own.mean()), "difference": float((own - exact).mean()), **interval}

    return [
        {
            "precision": name,
            "unpruned": accuracy(name, UNPRUNED.method),
            "glimpse": accuracy(name, GLIMPSE.method),
            "kept_share": statistics.fmean(float(mask.mean()) for mask in kept[name]),
            **overlap(kept[EXACT], kept[name]),
        }
        for name in bundles
    ]


WAYS = (UNPRUNED, GLIMPSE)


def overlap(first: Sequence[BoolArray], second: Sequence[BoolArray]) -> dict[str, float]:
    """Returns the intersection over union of two keep masks per question, as their mean and over all tokens together.

    Two masks that keep nothing are the same.
    """
    both = [int((a & b).sum()) for a, b in zip(first, second, strict=True)]
    either = [int((a | b).sum()) for a, b in zip(first, second, strict=True)]
    ratios = [shared / union if union else 1.0 for shared, union in zip(both, either, strict=True)]
    return {"iou": statistics.fmean(ratios), "iou_of_all_tokens": sum(both) / sum(either) if any(either) else 1.0}


def _mask(reply: Reply) -> BoolArray:
    if reply.mask is None:
        raise RuntimeError("a question without an image has no keep mask")
    return reply.mask
