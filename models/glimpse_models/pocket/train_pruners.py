"""Trains the learned pruning methods: ``python -m glimpse_models.pocket.train_pruners [--checkpoint DIR] [--out DIR]``.

The model is frozen. ``covipal`` learns to give, before layer 0, the probabilities that the glimpse's scorer gives at
the split; ``sdtp`` learns to rank the visual tokens behind the split by gradient times input. Both learn from the same
scenes. The progress line says which share of the tokens that answer the questions lies among the best quarter by each
method, and by what it learns from.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glimpse_models.pocket.checkpoint import PACKAGED, read_checkpoint
from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import PocketConfig
from glimpse_models.pocket.training.data import BatchSpec, batches
from glimpse_models.pocket.training.learned import Covipal, Sdtp, imitation_loss, ranking_loss
from glimpse_models.pocket.training.lessons import Lesson, Teacher
from glimpse_models.pocket.training.objectives import TRAINING_TYPE, Scores
from glimpse_models.pocket.training.optim import schedule
from glimpse_models.pocket.training.plan import Size
from glimpse_runtime.pruners import weights_file

SIZES: tuple[Size, ...] = (
    (448, 448, 4),
    (224, 224, 8),
    (336, 448, 4),
    (672, 672, 2),
    (224, 448, 6),
    (560, 336, 4),
    (896, 896, 1),
)
STEPS = 900
RATE = 3e-3
WARMUP = 20
DECAY = 0.7
LOG_EVERY = 50
BEST = 0.25
"""Share of the tokens that the progress line looks at."""


class Training:
    """Both methods with their optimiser."""

    def __init__(self, teacher: Teacher, seed: int = 0) -> None:
        """Start both from ``seed``."""
        hidden = teacher.config.hidden_size
        self.teacher = teacher
        self.covipal, self.sdtp = Covipal(hidden, seed=seed), Sdtp(hidden, seed=seed + 1)
        parameters = [*self.covipal.parameters(), *self.sdtp.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)

    def begin(self, batch: Batch) -> None:
        """Fit the scale of the inputs to a batch."""
        lesson = self.teacher(batch)
        self.covipal.fit_scale(lesson.visual)
        self.sdtp.fit_scale(lesson.hidden)

    def step(self, batch: Batch, rate: float, scores: Scores) -> None:
        """Learn from a batch and note how well it went."""
        lesson = self.teacher(batch)
        logits = self.covipal(lesson.visual, lesson.text, lesson.asked)
        ranks = self.sdtp(lesson.hidden)
        imitation, ranking = imitation_loss(logits, lesson.probabilities), ranking_loss(ranks, lesson.saliency)
        torch.autograd.backward(imitation + ranking)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        scores.add("covipal loss", imitation.item())
        scores.add("sdtp loss", ranking.item())
        self._note_found(lesson, logits, ranks, batch.relevant.flatten(2), scores)

    def write(self, folder: Path) -> list[Path]:
        """Write the weight files into a folder, each whole or not at all; return them."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, network in (("covipal", self.covipal), ("sdtp", self.sdtp)):
            path = folder / weights_file(name)
            unfinished = path.with_name(f".{path.name}")
            arrays: dict[str, Any] = network.arrays()
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            paths.append(unfinished.replace(path))
        return paths

    def _note_found(self, lesson: Lesson, logits: Tensor, ranks: Tensor, relevant: Tensor, scores: Scores) -> None:
        for name, ranked in (
            ("glimpse", lesson.probabilities),
            ("covipal", logits),
            ("saliency", lesson.saliency[:, None].expand_as(relevant)),
            ("sdtp", ranks[:, None].expand_as(relevant)),
        ):
            best = ranked.topk(int(BEST * ranked.shape[-1]), -1).indices
            scores.add(name, relevant.gather(-1, best).sum().item(), relevant.sum().item())


def train(training: Training, specs: Sequence[BatchSpec], seed: int) -> None:
    """Take a step for every batch, and say on stderr how it goes."""
    scores, start = Scores(), time.monotonic()
    for step, batch in enumerate(batches(specs, 0, f"{seed}/pruners")):
        if step == 0:
            training.begin(batch)
        training.step(batch, RATE * schedule(step, len(specs), WARMUP, DECAY), scores)
        done = step + 1
        if done % LOG_EVERY == 0 or done == len(specs):
            seconds = (time.monotonic() - start) / done
            left = (len(specs) - done) * seconds / 60
            print(f"{done}/{len(specs)} {seconds:.2f} s/step, {left:.0f} min left | {scores.text()}", file=sys.stderr)
            scores = Scores()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, then write ``pruner.covipal.npz`` and ``pruner.sdtp.npz``."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.train_pruners", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="folder with base/ and adapter/")
    parser.add_argument("--out", type=Path, help="folder of the files (default: the checkpoint's adapter/)")
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and scenes (default: %(default)s)")
    options = parser.parse_args(arguments)
    training = Training(Teacher(PocketConfig(), *read_checkpoint(options.checkpoint), TRAINING_TYPE), options.seed)
    train(training, [BatchSpec(*SIZES[step % len(SIZES)]) for step in range(options.steps)], options.seed)
    for path in training.write(options.out or options.checkpoint / "adapter"):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
