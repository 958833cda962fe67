"""Trained weights of a pruning method, for pocket's width, good ones and misfits; bundles with and without them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.files.hashing import sha256_of
from support.bundles import write_manifest

Install = Callable[..., None]
"""Makes a module with a pruning method look like an installed package."""
FITTING = {"w1": np.ones((128, 4)), "b1": np.ones(4), "w2": np.ones(4), "b2": np.ones(())}
MISFITS: list[tuple[bytes | dict[str, np.ndarray], str]] = [
    (b"no zip file", " is not an .npz file of numbers"),
    ({"w1": np.ones((128, 4))}, ": array b1 is missing"),
    ({**FITTING, "w3": np.ones(4)}, ": array w3 is unknown"),
    ({**FITTING, "w2": np.ones(5)}, ": array w2 has shape (5,), it must be (inner) where hidden = 128, inner = 4"),
    ({**FITTING, "w1": np.ones((64, 4))}, ": array w1 has shape (64, 4), it must be (hidden, inner)"),
    ({**FITTING, "b2": np.ones(1)}, ": array b2 has shape (1,), it must be ()"),
    ({**FITTING, "b1": np.array([1, 2, np.nan, 4])}, ": array b1 holds values that are not finite"),
    ({**FITTING, "b1": np.arange(4)}, ": array b1 holds int64 instead of floating point numbers"),
    ({**FITTING, "b1": np.array(["a"] * 4, object)}, " is not an .npz file of numbers"),
]


def unlearned(place: Path) -> Path:
    """A copy of the packaged bundle without trained weights of any method."""
    shutil.copytree(packaged_bundle(), place)
    manifest = json.loads((place / "manifest.json").read_text())
    for file in place.glob("pruner.*.npz"):
        file.unlink()
        del manifest["files"][file.name]
    write_manifest(place, manifest)
    return place


def with_weights(place: Path, method: str, content: bytes | dict[str, np.ndarray]) -> Path:
    """A copy of the packaged bundle with the weights of a method."""
    shutil.copytree(packaged_bundle(), place)
    file = place / f"pruner.{method}.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    write_manifest(place, manifest)
    return place
