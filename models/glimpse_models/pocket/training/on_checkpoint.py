"""Runs one phase of training on a finished checkpoint."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from glimpse_models.pocket.checkpoint import PACKAGED, read_checkpoint
from glimpse_models.pocket.training.plan import Phase
from glimpse_models.pocket.training.trainer import Settings, run_workers


def make_parser(module: str, description: str | None, phase: Phase) -> argparse.ArgumentParser:
    """Return the options that such trainings have in common, for ``python -m module``."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder for training state, log and the result")
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="folder with base/ and adapter/")
    parser.add_argument("--steps", type=_positive, default=phase.steps, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile (slow; needs no C++ compiler)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def begin(run: Path, checkpoint: Path, phase: str) -> None:
    """Make a run start from the weights of a checkpoint, unless it has started.

    Raises:
        SystemExit: The folder holds a run of something else.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / "state.pt").exists():
        done = torch.load(run / "state.pt", weights_only=True)["done"]
        if done and phase not in done:
            raise SystemExit(f"{run} holds a training of {', '.join(done)}, not of {phase}; give another --out")
        return
    model, modules = read_checkpoint(checkpoint)
    weights = {"model": model.state_dict(), "glimpse": modules.state_dict()}
    torch.save({"done": {}, "weights": weights}, run / "state.new")
    (run / "state.new").replace(run / "state.pt")


def train(phase: Phase, options: argparse.Namespace) -> None:
    """Run a phase of one part as the options of ``make_parser`` say, from where an earlier run was stopped."""
    begin(options.out, options.checkpoint, phase.name)
    run_workers(
        Settings(
            out=options.out,
            phases=(phase.with_steps((options.steps,)),),
            workers=options.workers,
            seed=options.seed,
            save_every=100,
            compiled=not options.eager,
            only=None,
            rendezvous=options.out / f".rendezvous-{os.getpid()}",
        )
    )
