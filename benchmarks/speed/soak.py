"""Thousands of questions of mixed sizes: does the process grow?

    python benchmarks/speed/soak.py [--asks 10000] [--json]

Resident memory is read after a warm-up that has seen every size and filled the scene cache, and at the end. Linux only.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np

from glimpse_runtime import Pruning, load

SIZES = [(112, 112), (168, 224), (224, 224), (336, 224), (280, 420), (448, 448)]
QUESTIONS = ["What colour is the circle?", "How many stars are there?", "What word is on the sign?", "Read the plate."]
WARM_UP = 1500


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(asks: int, scene_cache_bytes: int) -> dict[str, float]:
    """Asks, and returns resident bytes before and after."""
    choose = random.Random(0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES for _ in range(4)]
    start = before = 0.0
    with load(scene_cache_bytes=scene_cache_bytes) as vlm:
        for count in range(asks + WARM_UP):
            if count == WARM_UP:
                before, start = resident_bytes(), time.perf_counter()
            one, other = choose.choice(images), choose.choice(images)
            chosen = choose.choice([one, one, [one, other], None])
            pruning = Pruning(enabled=choose.random() < 0.8)
            _ = vlm.ask(chosen, choose.choice(QUESTIONS), pruning=pruning, max_new_tokens=6).text
        after, took_s = resident_bytes(), time.perf_counter() - start
    return {
        "rss_growth": after / before - 1,
        "rss_before_bytes": before,
        "rss_after_bytes": after,
        "asks": asks,
        "asks_per_s": asks / took_s,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=10000)
    parser.add_argument("--scene-cache-bytes", type=int, default=16 << 20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.asks, options.scene_cache_bytes)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
