"""What an answer out of given choices costs beside the time to the first token, on a model of real widths.

    python benchmarks/speed/typed.py [--bundle DIR] [--runs 7] [--json]

One question about images of 1,024 visual tokens: its first token, one of ten choices that part at the first token, and
one of ten that part at four places behind shared starts, in turn in one run; medians and their ratios are printed. The
bundle is made with ``make_checkpoint.py`` unless one is named.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.speed.scene import SIDE, make_bundle
from glimpse_runtime import load

QUESTION = "Where does the robot go next?"
CHOICES = {
    "first_token": None,
    "choices": list("0123456789"),
    "shared_starts": ["12", "123", "124", "125", "3", "31", "32", "7", "77", "78"],
}


def measure(bundle: Path, runs: int) -> dict[str, float]:
    """Returns the medians in milliseconds and their ratios to that of the first token."""
    rng = np.random.default_rng(0)
    spent_ms: dict[str, list[float]] = {name: [] for name in CHOICES}
    with load(bundle, scene_cache_bytes=0) as vlm:
        for run in range(runs + 1):
            image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            for name, choices in CHOICES.items():
                options: dict[str, Any] = {"max_new_tokens": 1} if choices is None else {"choices": choices}
                answer = vlm.ask(image, QUESTION, **options)
                if run:  # the first one warms up
                    spent_ms[name].append(answer.stats.ttft_ms)
    median = {name: statistics.median(values) for name, values in spent_ms.items()}
    return {
        **{f"{name}_ms": value for name, value in median.items()},
        "choice_over_ttft": median["choices"] / median["first_token"],
        "shared_over_ttft": median["shared_starts"] / median["first_token"],
        "runs": runs,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options.bundle or make_bundle(Path(temporary)), options.runs)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
