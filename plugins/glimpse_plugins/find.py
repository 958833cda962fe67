"""Finds the kernel library that was built for a GPU, without a compiler and without building anything."""

import json
from pathlib import Path

from glimpse_plugins.build import KERNEL_LIBRARY, source_hash
from glimpse_runtime.files.places import cache_folder


def find_kernel_library(capability: tuple[int, int]) -> Path | None:
    """Returns the newest library in the cache that is made of the present sources and holds code for a GPU.

    Args:
        capability: the GPU's compute capability, (8, 7) for the Jetson Orin.
    """
    architecture = f"-gencode=arch=compute_{capability[0]}{capability[1]},code=sm_{capability[0]}{capability[1]}"
    found = []
    for path in (cache_folder() / "plugins").glob(f"*/{KERNEL_LIBRARY}"):
        try:
            facts = json.loads((path.parent / "build.json").read_text(encoding="utf-8"))
            fits = facts["sources"] == source_hash() and architecture in facts["flags"]
            age = path.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if fits:
            found.append((age, path))
    return max(found)[1] if found else None
