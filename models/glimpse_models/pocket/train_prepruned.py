"""Trains the glimpse's scorer for two stages: ``python -m glimpse_models.pocket.train_prepruned --out DIR``.

It starts from the glimpse modules of a checkpoint and learns with half of the visual tokens gone before layer 0; the
base model is frozen. The result is an adapter folder, ``DIR/adapter``, for the same base:

    glimpse-export --model pocket --adapter DIR/adapter --out BUNDLE

The run can be stopped at any time and goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from glimpse_models.pocket.checkpoint import PACKAGED, default_threshold, export_adapter, read_checkpoint
from glimpse_models.pocket.plan import PREPRUNED
from glimpse_models.pocket.trainer import Settings, run_workers


def begin(run: Path, checkpoint: Path) -> None:
    """Make a run start from the weights of a checkpoint, unless it has started."""
    run.mkdir(parents=True, exist_ok=True)
    if (run / "state.pt").exists():
        return
    model, modules = read_checkpoint(checkpoint)
    weights = {"model": model.state_dict(), "glimpse": modules.state_dict()}
    torch.save({"done": {}, "weights": weights}, run / "state.new")
    (run / "state.new").replace(run / "state.pt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, then write the adapter folder."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.train_prepruned", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for training state, log and the adapter")
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="folder with base/ and adapter/")
    parser.add_argument("--steps", type=int, default=PREPRUNED.steps, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile (slow; needs no C++ compiler)")
    options = parser.parse_args(arguments)
    begin(options.out, options.checkpoint)
    settings = Settings(
        out=options.out,
        phases=(PREPRUNED.with_steps((options.steps,)),),
        workers=options.workers,
        seed=options.seed,
        save_every=100,
        compiled=not options.eager,
        only=None,
        rendezvous=options.out / f".rendezvous-{os.getpid()}",
    )
    run_workers(settings)
    folder = export_adapter(options.out, options.out / "adapter", default_threshold(options.checkpoint))
    for path in (options.checkpoint / "adapter").glob("pruner.*.npz"):
        shutil.copyfile(path, folder / path.name)
    print(f"adapter written to {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
