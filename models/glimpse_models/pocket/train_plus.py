"""Trains pocket-plus from a checkpoint: ``python -m glimpse_models.pocket.train_plus --out DIR``.

The decoder learns under pruning, by low-rank updates, and the glimpse modules go on learning. The result is what
pocket-plus adds to the base, ``DIR/lora`` and ``DIR/adapter``:

    glimpse-export --model pocket --lora DIR/lora --adapter DIR/adapter --out BUNDLE

The run can be stopped at any time and goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from glimpse_models.pocket.checkpoint import default_threshold, export_plus
from glimpse_models.pocket.training.on_checkpoint import make_parser, train
from glimpse_models.pocket.training.plan import PLUS


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, then write both folders."""
    options = make_parser("glimpse_models.pocket.train_plus", __doc__, PLUS).parse_args(arguments)
    train(PLUS, options)
    folder = export_plus(options.out, options.out, default_threshold(options.checkpoint))
    print(f"lora and adapter written to {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
