"""Zooming against the whole image, against fewer pixels for all of it, and against zooming to the true places."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from benchmarks.accuracy.comparison.intervals import Bootstrap
from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.heldout import Sample
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_runtime import Answer, Pruning, Scene, Session
from glimpse_runtime.pruning.zoom import SMALLEST_TOKENS, dilated

SHARE = 0.25
CEILING_MARGIN = 1
UNPRUNED, GLIMPSE, ZOOM = "unpruned", "glimpse", "zoom"
DOWNSAMPLED, DOWNSAMPLED_GLIMPSE, TRUE_BOXES = "downsampled", "downsampled_glimpse", "true_boxes"
WAYS = (UNPRUNED, GLIMPSE, ZOOM, DOWNSAMPLED, DOWNSAMPLED_GLIMPSE, TRUE_BOXES)
Figures = dict[str, object]


@dataclass
class Zooming:
    """What was found of each question; times in milliseconds, first token included."""

    scenes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    right: dict[str, list[bool]] = field(default_factory=lambda: {way: [] for way in WAYS})
    patches: list[float] = field(default_factory=list)
    ceiling_patches: list[float] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    zoom_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)


def measure(session: Session, samples: Iterable[Sample], seed: int, progress: Callable[[int], object]) -> Figures:
    """Asks every question every way and returns the figures."""
    found, whole, scene_number, whole_ms = Zooming(), None, -1, 0.0
    for sample in samples:
        if sample.scene != scene_number or whole is None:
            scene_number = sample.scene
            first = session.ask(sample.image, sample.question.text, pruning=Pruning(enabled=False), max_new_tokens=1)
            whole, whole_ms = session.encode(sample.image), first.stats.ttft_ms
        _one(session, whole, sample, found)
        found.whole_ms.append(whole_ms)
        progress(len(found.scenes))
    return _figures(found, seed)


def _one(session: Session, whole: Scene, sample: Sample, found: Zooming) -> None:
    text, image = sample.question.text, sample.image

    def note(way: str, answer: Answer) -> Answer:
        found.right[way].append(answer.text == sample.question.answer)
        return answer

    plain = Pruning(enabled=False)
    rows, columns = note(UNPRUNED, _asked(whole, text, plain)).pruning.keep_masks[0].shape
    note(GLIMPSE, _asked(whole, text, Pruning()))
    answer = note(ZOOM, session.ask(image, text, pruning=Pruning(zoom=SHARE), max_new_tokens=MAX_NEW_TOKENS))
    assert answer.pruning.zoom is not None
    spent = answer.pruning.zoom.patches_share
    small = session.encode(_shrunk(image, spent))
    note(DOWNSAMPLED, _asked(small, text, plain))
    note(DOWNSAMPLED_GLIMPSE, _asked(small, text, Pruning()))
    true = dilated(relevant_tokens(sample.question.boxes, image.size, rows, columns), CEILING_MARGIN)
    # A question about what is not there has no box: any place is as good, and one must be looked at.
    true[0, 0] |= not true.any()
    note(TRUE_BOXES, _asked(session.encode(image, cells=true), text, plain))
    found.scenes.append(sample.scene)
    found.tokens.append(rows * columns)
    found.patches.append(spent)
    found.ceiling_patches.append(float(true.mean()))
    found.reasons.append(answer.pruning.zoom.reason)
    found.zoom_ms.append(answer.stats.ttft_ms)


def _asked(scene: Scene, text: str, pruning: Pruning) -> Answer:
    return scene.ask(text, pruning=pruning, max_new_tokens=MAX_NEW_TOKENS)


def _shrunk(image: Image.Image, share: float) -> Image.Image:
    """The whole image with as many pixels as zooming encoded, the copy's among them; never more than it has."""
    scale = min(share, 1.0) ** 0.5
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _figures(found: Zooming, seed: int) -> Figures:
    everything = np.ones(len(found.scenes), np.bool_)
    tokens = np.array(found.tokens)
    sizes = {f"{count} tokens": tokens == count for count in sorted(set(found.tokens))}
    groups = {"above the size gate": tokens > SMALLEST_TOKENS, **sizes}
    figures = {f"accuracy_{way}": statistics.fmean(right) for way, right in found.right.items()}
    total = _group(found, everything, seed)
    return {
        **figures,
        **{name: total[name] for name in ("patches_share", "zoomed_share", "ways", "ttft_ms", "questions")},
        "scenes": len(set(found.scenes)),
        "by_size": {name: _group(found, chosen, seed) for name, chosen in groups.items() if chosen.any()},
    }


def _group(found: Zooming, chosen: np.ndarray, seed: int) -> Figures:
    """The figures of some questions; differences are to the whole image unpruned."""
    bootstrap = Bootstrap([scene for scene, own in zip(found.scenes, chosen, strict=True) if own], seed)
    reference = np.array(found.right[UNPRUNED], float)[chosen]
    ways: Figures = {}
    for way, answers in found.right.items():
        right = np.array(answers, float)[chosen]
        ways[way] = {
            "exact_match": float(right.mean()),
            "difference": float((right - reference).mean()),
            "difference_interval": bootstrap.interval(right - reference),
        }
    zoomed = np.array([reason is None for reason in found.reasons])[chosen]
    return {
        "questions": int(chosen.sum()),
        "patches_share": float(np.array(found.patches)[chosen].mean()),
        "true_boxes_patches_share": float(np.array(found.ceiling_patches)[chosen].mean()),
        "zoomed_share": float(zoomed.mean()),
        "ttft_ms": {
            "zoom": statistics.median(np.array(found.zoom_ms)[chosen].tolist()),
            "unpruned": statistics.median(np.array(found.whole_ms)[chosen].tolist()),
        },
        "ways": ways,
    }
