"""Measures exact match by pruning threshold in PyTorch: ``python -m glimpse_models.pocket.validate``.

This is how the default threshold was chosen, on the validation split; ``evaluate`` measures the deployed model.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from glimpse_models.pocket.checkpoint import PACKAGED, read_checkpoint
from glimpse_models.pocket.config import PocketConfig
from glimpse_models.pocket.data import QUESTIONS, Batch, RowEncoder, collate
from glimpse_models.pocket.questions import TYPES, ask
from glimpse_models.pocket.reference import Reference
from glimpse_models.pocket.scenes import make_scene, scene_rng
from glimpse_models.pocket.texts import SPLITS, Split

THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
SIZES = ((448, 448), (224, 224), (672, 672), (336, 448), (448, 560), (896, 896))
"""Width and height in pixels of the validation scenes, in turn."""


@dataclass
class Tally:
    """Right answers and kept tokens of one way of pruning."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    kept: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    def add(self, batch: Batch, right: Tensor, keep: Tensor | None) -> None:
        """Note the answers to one image's questions."""
        relevant = batch.relevant[0].flatten(1)
        keep = torch.ones_like(relevant) if keep is None else keep
        for index, is_right in zip(batch.types[0].tolist(), right.tolist(), strict=True):
            self.right[TYPES[index]].append(is_right)
        self.kept += keep.float().mean(1).tolist()
        some = relevant.any(1)
        self.recall += ((keep & relevant).sum(1) / relevant.sum(1))[some].tolist()

    def figures(self) -> dict[str, float]:
        """Return exact match over all and by type, the share of tokens kept, and that of relevant tokens kept."""
        overall = _mean([answer for answers in self.right.values() for answer in answers])
        by_type = {name: _mean(self.right[name]) for name in TYPES}
        return {"all": overall, **by_type, "kept": _mean(self.kept), "recall": _mean(self.recall)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def keep_mask(scores: Tensor, threshold: float) -> Tensor:
    """Keep what scores above the threshold, and at least the best token of each question."""
    best = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.argmax(1, keepdim=True), True)
    return (scores > threshold) | best


def tallies(
    reference: Reference,
    split: Split,
    images: int,
    seed: int,
    thresholds: Sequence[float] = THRESHOLDS,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> dict[str, Tally]:
    """Answer questions about ``images`` scenes under every way of pruning."""
    encoder = RowEncoder()
    random = torch.Generator().manual_seed(seed)
    result: dict[str, Tally] = defaultdict(Tally)
    for index in range(images):
        rng = scene_rng(split, seed, index)
        scene = make_scene(rng, *sizes[index % len(sizes)], split)
        batch = collate(encoder, [(scene, ask(rng, scene.objects, QUESTIONS))])
        scores = reference.scores(batch)
        relevant = batch.relevant[0].flatten(1)
        kept = {f"threshold {value:g}": keep_mask(scores, value) for value in thresholds}
        noise = torch.rand(scores.shape, generator=random)
        count = keep_mask(scores, thresholds[0]).sum(1, keepdim=True)
        rank = noise.argsort(1, descending=True).argsort(1)
        ways = {"all": None, **kept, "boxes": relevant, "random": rank < count, "none": relevant & False}
        for name, keep in ways.items():
            result[name].add(batch, reference.right(batch, keep), keep)
    return result


def layer_scan(reference: Reference, split: Split, images: int, seed: int) -> dict[str, Tally]:
    """Drop all visual tokens, or all but the relevant ones, after each layer in turn.

    Where dropping all of them costs little, the answer has already been read from the image, and pruning there would
    prove nothing.
    """
    encoder = RowEncoder()
    result: dict[str, Tally] = defaultdict(Tally)
    for index in range(images):
        rng = scene_rng(split, seed, index)
        scene = make_scene(rng, *SIZES[index % len(SIZES)], split)
        batch = collate(encoder, [(scene, ask(rng, scene.objects, QUESTIONS))])
        boxes = batch.relevant[0].flatten(1)
        result["all"].add(batch, reference.right(batch), None)
        for layer in range(reference.config.layers - 1):
            for name, keep in (("none", boxes & False), ("boxes", boxes)):
                result[f"{name} after {layer}"].add(batch, reference.right(batch, keep, layer), keep)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.validate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="checkpoint folder")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--images", type=int, default=60, help="scenes, with eight questions each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scan-layers", action="store_true", help="compare pruning layers instead of thresholds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    model, modules = read_checkpoint(options.checkpoint)
    measure = layer_scan if options.scan_layers else tallies
    result = measure(Reference(PocketConfig(), model, modules), options.split, options.images, options.seed)
    figures = {name: tally.figures() for name, tally in result.items()}
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{'kept tokens':15s}", *(f"{name:>8s}" for name in next(iter(figures.values()))))
    for name, row in figures.items():
        print(f"{name:15s}", *(f"{figure:8.3f}" for figure in row.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
