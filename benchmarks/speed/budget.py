"""Whether first tokens come within the budgets that were asked for: pocket, pictures of mixed sizes.

    python benchmarks/speed/budget.py [--asks 1000] [--seed 0] [--json]

The costs are measured anew. Every ask draws a size and a budget between the least that is refused and twice what the
whole image takes; a refusal counts as neither. ``within_budget`` is the share of answered asks whose first token came
within its budget, ``refused`` how many were refused before computing, and ``ways`` says how often which way was taken.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from glimpse_runtime import InputError, load

SIDES = (200, 300, 448, 640, 800, 1000)
QUESTION = "What does the black sign say?"


def measure(asks: int, seed: int) -> dict[str, object]:
    """Returns all figures."""
    rng, ways, refused = np.random.default_rng(seed), Counter[str](), 0
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLIMPSE_CACHE"] = folder
        with load(calibrate=True, scene_cache_bytes=0) as vlm:
            margin = vlm.costs.margin if vlm.costs else None
            for _ in range(asks):
                height, width = (int(side) for side in rng.choice(SIDES, 2))
                image = rng.integers(0, 256, (height, width, 3), np.uint8)
                budget_ms = float(np.exp(rng.uniform(np.log(25), np.log(1500))))
                try:
                    answer = vlm.ask(image, QUESTION, budget_ms=budget_ms, max_new_tokens=1)
                except InputError:
                    refused += 1
                    continue
                assert answer.budget is not None
                ways[answer.budget.way] += 1
                shares.append(answer.stats.ttft_ms / budget_ms)
    return {
        "within_budget": sum(share <= 1 for share in shares) / max(len(shares), 1),
        "median_share_used": statistics.median(shares) if shares else None,
        "answered": len(shares),
        "refused": refused,
        "ways": dict(ways),
        "margin": margin,
        "asks": asks,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.asks, options.seed)
    print(json.dumps(result) if options.json else "\n".join(f"{name:<20}{value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
