"""Trains the glimpse's scorer for two stages: ``python -m glimpse_models.pocket.train_prepruned --out DIR``.

It starts from the glimpse modules of a checkpoint and learns with half of the visual tokens gone before layer 0; the
base model is frozen. The result is an adapter folder, ``DIR/adapter``, for the same base:

    glimpse-export --model pocket --adapter DIR/adapter --out BUNDLE

The run can be stopped at any time and goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from glimpse_models.pocket.checkpoint import default_threshold, export_adapter
from glimpse_models.pocket.training.on_checkpoint import make_parser, train
from glimpse_models.pocket.training.plan import PREPRUNED


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, then write the adapter folder."""
    options = make_parser("glimpse_models.pocket.train_prepruned", __doc__, PREPRUNED).parse_args(arguments)
    train(PREPRUNED, options)
    folder = export_adapter(options.out, options.out / "adapter", default_threshold(options.checkpoint))
    for path in (options.checkpoint / "adapter").glob("pruner.*.npz"):
        shutil.copyfile(path, folder / path.name)
    print(f"adapter written to {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
