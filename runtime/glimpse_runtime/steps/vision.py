"""The first step: the vision encoder turns an image's patches into visual tokens and the taps that the scorer reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid, Patches
from glimpse_runtime.interrupt import Interrupt

RECEIVED = "attention_received"
"""The vision encoder's optional output."""
Emit = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class VisualTokens:
    """One encoded image.

    Attributes:
        grid: its patch grid.
        embeds: (visual tokens, hidden) float32 of the backend, row-major on the merged grid.
        features: (taps, visual tokens, vision hidden) float32 of the backend, what the scorer reads.
        received: (visual tokens,) share of attention that each receives; None where the bundle's vision encoder does
            not give it.
        encoded: (visual tokens,) which of them were encoded; None is all. The others' rows are zeros and must not
            enter the decoder.
    """

    grid: Grid
    embeds: Tensor
    features: Tensor
    received: FloatArray | None = None
    encoded: BoolArray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        beside = (self.received, self.encoded)
        return self.embeds.nbytes + self.features.nbytes + sum(part.nbytes for part in beside if part is not None)


class VisionEncoder:
    """Encodes images, one at a time.

    Attributes:
        engine: the loaded graph.
    """

    def __init__(self, manifest: Manifest, family: Family, backend: Backend, engine: Engine, emit: Emit) -> None:
        """Takes the loaded graph; ``emit`` gets intermediate tensors by name."""
        self._manifest = manifest
        self._family = family
        self._backend = backend
        self.engine = engine
        self._emit = emit

    def __call__(self, image: Patches, interrupt: Interrupt, cells: IntArray | None = None) -> VisualTokens:
        """Runs the vision encoder on one image, or on some cells of it as if there were no others.

        Args:
            image: all of its patches.
            interrupt: ends the request early.
            cells: (n,) ascending places on the merged grid, at least one; None is all.

        Raises:
            InputError: the model's family does not encode parts.
        """
        vision, grid = self._manifest.vision, image.grid
        inputs = {"pixel_values": image.rows(cells), **self._family.vision_inputs(grid, cells)}
        # Memory of their own, not the engine's: they stay, and what the engine worked in can go.
        count, taps = grid.visual_tokens if cells is None else len(cells), len(vision.taps)
        embeds = self._backend.allocate((count, self._manifest.text.hidden_size), "float32")
        features = self._backend.allocate((taps, count, vision.hidden_size), "float32")
        out = self.engine.run(inputs, interrupt, {"image_embeds": embeds, "features": features})
        received = self._backend.download(out[RECEIVED]).copy() if RECEIVED in out else None
        for name, value in inputs.items():
            self._emit(f"vision.{name}", value)
        emit_trace(out, self._emit)
        self._emit("image_embeds", embeds)
        self._emit("visual_features", features)
        tokens = VisualTokens(grid, embeds, features, received)
        return tokens if cells is None else self._spread(tokens, cells)

    def _spread(self, part: VisualTokens, cells: IntArray) -> VisualTokens:
        """Returns the tokens of some cells in their places on the whole grid."""
        count = part.grid.visual_tokens

        def whole(tensor: Tensor) -> Tensor:
            rows = self._backend.download(tensor)
            spread = np.zeros((*rows.shape[:-2], count, rows.shape[-1]), rows.dtype)
            spread[..., cells, :] = rows
            target = self._backend.allocate(spread.shape, "float32")
            self._backend.copy(spread, target)
            return target

        encoded = np.zeros(count, np.bool_)
        encoded[cells] = True
        received = None
        if part.received is not None:
            received = np.zeros(count, np.float32)
            received[cells] = part.received
        return VisualTokens(part.grid, whole(part.embeds), whole(part.features), received, encoded)

    def close(self) -> None:
        """Frees the graph."""
        self.engine.close()


def emit_trace(outputs: Mapping[str, Tensor], emit: Emit) -> None:
    """Hands on the outputs that a graph has for tracing alone."""
    for name, value in outputs.items():
        if name.startswith("trace."):
            emit(name, value)
