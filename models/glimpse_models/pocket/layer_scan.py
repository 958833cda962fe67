"""Says which layer tokens may leave after: ``python -m glimpse_models.pocket.layer_scan``.

In PyTorch, visual tokens are dropped after each layer in turn: all of them, or all but those under the true boxes.
Where dropping all of them costs little, the answer has already been read from the image, and pruning there would prove
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from glimpse_models.pocket.checkpoint import PACKAGED, read_checkpoint
from glimpse_models.pocket.evaluate import mean
from glimpse_models.pocket.model.config import CELL, PocketConfig
from glimpse_models.pocket.scenes.questions import TYPES, ask
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_models.pocket.training.data import QUESTIONS, RowEncoder, collate
from glimpse_models.pocket.training.reference import Reference

SIZES = ((448, 448), (224, 224), (336, 448), (448, 560))
"""Width and height in pixels of the scenes, in turn."""


def layer_scan(reference: Reference, images: int, seed: int) -> dict[str, dict[str, float]]:
    """Return exact match over all questions and by type, by where what is dropped; eight questions an image."""
    encoder = RowEncoder()
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for index in range(images):
        rng = scene_rng("validation", seed, index)
        scene = make_scene(rng, *SIZES[index % len(SIZES)], "validation")
        questions = ask(rng, scene.objects, QUESTIONS)
        batch = collate(encoder, [(scene, questions)])
        size = scene.image.size
        marks = [relevant_tokens(question.boxes, size, size[1] // CELL, size[0] // CELL) for question in questions]
        boxes = torch.from_numpy(np.stack(marks)).flatten(1)
        ways = {"all": reference.right(batch)}
        for layer in range(reference.config.layers - 1):
            for name, keep in (("none", boxes & False), ("boxes", boxes)):
                ways[f"{name} after {layer}"] = reference.right(batch, keep, layer)
        for name, right in ways.items():
            for kind, answer in zip(batch.types[0].tolist(), right.tolist(), strict=True):
                found[name][TYPES[kind]].append(answer)
    return {name: _figures(by_type) for name, by_type in found.items()}


def _figures(by_type: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    every = [answer for answers in by_type.values() for answer in answers]
    return {"all": mean(every), **{name: mean(by_type[name]) for name in TYPES}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.layer_scan", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="checkpoint folder")
    parser.add_argument("--images", type=int, default=40, help="scenes, with eight questions each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    reference = Reference(PocketConfig(), *read_checkpoint(options.checkpoint))
    figures = layer_scan(reference, options.images, options.seed)
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{'kept':15s}", *(f"{name:>8s}" for name in next(iter(figures.values()))))
    for name, row in figures.items():
        print(f"{name:15s}", *(f"{figure:8.3f}" for figure in row.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
