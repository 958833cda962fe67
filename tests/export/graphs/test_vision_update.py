"""A full pass through the update graph gives what the vision graph gives, and leaves keys and values to go on from."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from glimpse_runtime.arrays import Array
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.grid import Grid

GRID = Grid(12, 8, 2)


def run(bundle: Path, stage: str, given: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(str(bundle / f"{stage}.onnx"), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def update(bundle: Path, pixels: Array, cells: Array, cache: dict[str, Array]) -> dict[str, Array]:
    rows = GRID.patches_of(cells)
    windows = open_family(Bundle.open(bundle).manifest).vision_inputs(GRID, cells)
    return run(bundle, "vision_update", {"rows": rows, "pixel_values": pixels[rows], **windows, **cache})


def past(bundle: Path, outputs: dict[str, Array] | None) -> dict[str, Array]:
    names = [t for t in Bundle.open(bundle).manifest.stages_of("ort")["vision_update"].inputs if "past." in t.name]
    if outputs is None:
        return {t.name: np.full((GRID.patches, int(t.shape[1])), np.nan, np.float32) for t in names}
    return {t.name: outputs[t.name.replace("past.", "present.")] for t in names}


@pytest.fixture(scope="module")
def pixels() -> Array:
    values: Array = np.random.default_rng(3).normal(size=(GRID.patches, 1176)).astype(np.float32)
    return values


def test_a_full_pass_is_the_vision_graph_whatever_the_cache_held(golden_bundle: Path, pixels: Array) -> None:
    windows = open_family(Bundle.open(golden_bundle).manifest).vision_inputs(GRID)
    expected = run(golden_bundle, "vision", {"pixel_values": pixels, **windows})
    found = update(golden_bundle, pixels, np.arange(GRID.visual_tokens), past(golden_bundle, None))
    for name in ("image_embeds", "features"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_the_same_pixels_again_change_nothing(golden_bundle: Path, pixels: Array) -> None:
    """A window recomputed from its own pixels, against the cache of a full pass, is what it was."""
    whole = update(golden_bundle, pixels, np.arange(GRID.visual_tokens), past(golden_bundle, None))
    cells = np.array([0, 1, 4, 5])  # one window
    again = update(golden_bundle, pixels, cells, past(golden_bundle, whole))
    np.testing.assert_allclose(again["image_embeds"], whole["image_embeds"][cells], atol=1e-5)
    np.testing.assert_allclose(again["features"], whole["features"][:, cells], atol=1e-5)
    for name, value in again.items():
        if name.startswith("present."):
            np.testing.assert_allclose(value, whole[name], atol=1e-5)
