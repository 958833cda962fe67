"""Measures the deployed model by threshold on the validation split: ``python -m glimpse_models.pocket.validate``.

This is how the default threshold is chosen; ``evaluate`` then measures it on scenes that took no part in the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from glimpse_models.pocket.evaluate import Evaluation, table
from glimpse_models.pocket.scenes.heldout import samples
from glimpse_runtime import Pruning, Session, load

THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


def validate(
    session: Session, count: int, seed: int, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, dict[str, Any]]:
    """Ask ``count`` validation questions without pruning and by every threshold; see ``evaluate.Result.summary``."""
    evaluation = Evaluation(session, seed)
    for sample in samples(count, seed, "validation"):
        evaluation.ask("unpruned", sample, Pruning(enabled=False))
        for threshold in thresholds:
            evaluation.ask(f"threshold {threshold:g}", sample, Pruning(threshold=threshold))
    return evaluation.summaries()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.validate", description=__doc__)
    parser.add_argument("--samples", type=int, default=1008, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--bundle", help="bundle folder (default: the packaged pocket bundle)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with load(options.bundle) as session:
        summaries = validate(session, options.samples, options.seed)
    if options.json:
        print(json.dumps({"split": "validation", "seed": options.seed, "results": summaries}, indent=2))
    else:
        print(table(summaries))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
