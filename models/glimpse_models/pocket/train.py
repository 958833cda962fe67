"""Trains pocket from nothing: ``python -m glimpse_models.pocket.train --out DIR``.

Two single-threaded workers share each step's gradients: faster than two threads in one process when the machine is
busy. The run can be stopped at any time and goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from glimpse_models.pocket.training.plan import PLAN, SMOKE, Phase
from glimpse_models.pocket.training.trainer import Settings, run_workers


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for training state, log and the checkpoint")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it works")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and scenes (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS", help="steps between checkpoints")
    parser.add_argument("--only", choices=[phase.name for phase in PLAN], help="stop after this phase")
    parser.add_argument("--eager", action="store_true", help="do not compile (slow; needs no C++ compiler)")
    parser.add_argument(
        "--steps",
        action="append",
        default=[],
        metavar="PHASE=N[,N]",
        help="other step counts for a phase, one per part; may be repeated",
    )
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace) -> tuple[Phase, ...]:
    """Return the phases that the command line asks for."""
    changed = dict(item.split("=", 1) for item in options.steps)
    phases = SMOKE if options.smoke else PLAN
    unknown = set(changed) - {phase.name for phase in phases}
    if unknown:
        raise SystemExit(f"--steps: no phase named {', '.join(sorted(unknown))}")
    return tuple(
        phase.with_steps(tuple(int(n) for n in changed[phase.name].split(","))) if phase.name in changed else phase
        for phase in phases
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, then write the checkpoint folders."""
    options = parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        out=options.out,
        phases=planned(options),
        workers=options.workers,
        seed=options.seed,
        save_every=options.save_every,
        compiled=not (options.eager or options.smoke),
        only=options.only,
        rendezvous=options.out / f".rendezvous-{os.getpid()}",
    )
    run_workers(settings)
    if settings.only in (None, settings.phases[-1].name):
        from glimpse_models.pocket.checkpoint import export_run

        folder = export_run(options.out, options.out / "checkpoint")
        print(f"checkpoint written to {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
