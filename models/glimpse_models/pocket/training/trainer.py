"""The training loop of one worker: phases, steps, checkpoints, progress."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from glimpse_models.pocket.model.config import PocketConfig
from glimpse_models.pocket.training.data import BatchSpec, RowEncoder, batches, draw_batch
from glimpse_models.pocket.training.objectives import Scores, Task, Trainee
from glimpse_models.pocket.training.optim import Optimiser, schedule
from glimpse_models.pocket.training.plan import Phase
from glimpse_models.pocket.training.tasks import TASKS

LOG_EVERY = 50
MAX_SHIFT = 12
"""Most positions by which training moves the text away from the image."""


@dataclass(frozen=True)
class Settings:
    """What a training run was asked to do."""

    out: Path
    phases: tuple[Phase, ...]
    workers: int
    seed: int
    save_every: int
    compiled: bool
    only: str | None
    rendezvous: Path


def run_workers(settings: Settings) -> None:
    """Run all phases in as many processes as the settings say."""
    spawn(  # type: ignore[no-untyped-call]
        run_worker, (settings,), nprocs=settings.workers
    )
    settings.rendezvous.unlink(missing_ok=True)


def run_worker(rank: int, settings: Settings) -> None:
    """Run all phases as worker ``rank``, continuing from the checkpoint in the output folder if there is one."""
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch._dynamo.config.recompile_limit = 64
    if settings.workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{settings.rendezvous.resolve()}", rank=rank, world_size=settings.workers
        )
    _Worker(rank, settings).run()
    if settings.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


class _Worker:
    def __init__(self, rank: int, settings: Settings) -> None:
        self.rank, self.settings = rank, settings
        self.encoder = RowEncoder()
        self.trainee = Trainee(PocketConfig(), settings.seed, settings.compiled)
        self.done: dict[str, int] = {}
        self.optimiser_state: dict[str, Any] | None = None
        self._restore()

    def run(self) -> None:
        for phase in self.settings.phases:
            if self.done.get(phase.name, 0) < phase.steps:
                self._run_phase(phase)
            if phase.name == self.settings.only:
                break

    def _run_phase(self, phase: Phase) -> None:
        task = TASKS[phase.objective](self.trainee, self.encoder)
        optimiser = Optimiser(*task.parameters(), self.rank, self.settings.workers)
        first = self.done.get(phase.name, 0)
        if not first:
            task.begin()
        if first and self.optimiser_state is not None:
            optimiser.load_state_dict(self.optimiser_state)
        specs = phase.specs()
        if self.settings.compiled:
            self._compile(task, specs[first:])
        stream = batches(specs, first, f"{self.settings.seed}/{phase.name}/{self.rank}")
        shifts = Random(f"{self.settings.seed}/{phase.name}/shift")
        drawn = [shifts.randint(0, MAX_SHIFT) if shifts.random() < 0.5 else 0 for _ in specs]
        scores, start = Scores(), time.monotonic()
        for step, batch in enumerate(stream, first):
            torch.autograd.backward(task.loss(batch, drawn[step], scores))
            factor = schedule(step, phase.steps, phase.warmup, phase.decay)
            optimiser.step(phase.muon_rate * factor, phase.adam_rate * factor)
            last = step + 1 == phase.steps
            if (step + 1) % LOG_EVERY == 0 or last:
                self._report(phase, step + 1, (time.monotonic() - start) / (step + 1 - first), scores)
                scores = Scores()
            if (step + 1) % self.settings.save_every == 0 or last:
                self.done[phase.name] = step + 1
                self._save(None if last else optimiser)

    def _compile(self, task: Task, specs: Iterable[BatchSpec]) -> None:
        """Compile for every image size: each worker half of them, then the rest from the shared cache on disk."""
        sizes = list(dict.fromkeys((spec.height, spec.width, spec.images) for spec in specs))
        share = self.settings.workers
        mine = [size for index, size in enumerate(sizes) if index % share == self.rank]
        for group in (mine, [size for size in sizes if size not in mine]):
            for height, width, images in group:
                started = time.monotonic()
                batch = draw_batch(Random("compile"), self.encoder, BatchSpec(height, width, images))
                torch.autograd.backward(task.loss(batch, 0, Scores()))
                self._log(f"compiled {height}x{width} in {time.monotonic() - started:.0f} s")
            if share > 1:
                dist.barrier()
        for parameter in [parameter for group in task.parameters() for parameter in group]:
            parameter.grad = None

    def _report(self, phase: Phase, step: int, seconds: float, scores: Scores) -> None:
        left = (phase.steps - step) * seconds / 60
        self._log(f"{phase.name} {step}/{phase.steps} {seconds:.2f} s/step, {left:.0f} min left | {scores.text()}")

    def _log(self, line: str) -> None:
        if self.rank:
            return
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        print(stamped, flush=True)
        with (self.settings.out / "log.txt").open("a") as log:
            log.write(stamped + "\n")

    def _save(self, optimiser: Optimiser | None) -> None:
        state = None if optimiser is None else optimiser.state_dict()
        _replace(self.settings.out / f"optimiser-{self.rank}.pt", {"done": self.done, "optimiser": state})
        if self.rank == 0:
            _replace(self.settings.out / "state.pt", {"done": self.done, "weights": self.trainee.state_dict()})

    def _restore(self) -> None:
        path = self.settings.out / "state.pt"
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True)
        self.trainee.load_state_dict(saved["weights"])
        self.done = saved["done"]
        path = self.settings.out / f"optimiser-{self.rank}.pt"
        if path.is_file():
            optimiser = torch.load(path, weights_only=True)
            if optimiser["done"] == self.done:
                self.optimiser_state = optimiser["optimiser"]
        self._log(f"continuing after {self.done}")


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that a reader never sees half of it."""
    new = path.with_suffix(".new")
    torch.save(content, new)
    new.replace(path)
