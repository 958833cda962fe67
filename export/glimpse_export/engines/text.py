"""What building a bundle's engines would do, as text for people and as JSON."""

import json
from collections.abc import Sequence

from glimpse_export.engines.builder import PlannedEngine
from glimpse_runtime.engines.store import engine_file


def describe(planned: Sequence[PlannedEngine]) -> str:
    """Returns a line for each engine, below what all have in common."""
    key, job = planned[0].key, planned[0].job
    lines = [f"{key.tensorrt} on {key.gpu}, dialect {job.dialect}"]
    for engine in planned:
        profiles = ", ".join(engine.key.profiles)
        state = "is there" if engine.stored else f"to build, about {engine.peak_bytes / (1 << 30):.1f} GiB"
        lines.append(f"{engine.key.stage:<9}{state:<28}{profiles:<18}{engine.key.compaction.split(' ')[0]}".rstrip())
    return "\n".join(lines)


def to_json(planned: Sequence[PlannedEngine]) -> str:
    """Returns the same as one line of JSON."""
    return json.dumps(
        [
            {
                "stage": engine.key.stage,
                "dialect": engine.job.dialect,
                "tensorrt": engine.key.tensorrt,
                "gpu": engine.key.gpu,
                "file": str(engine_file(engine.key)),
                "is_built": engine.stored is not None,
                "peak_bytes": engine.peak_bytes,
            }
            for engine in planned
        ]
    )
