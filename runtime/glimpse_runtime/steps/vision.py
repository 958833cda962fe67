"""The first step: the vision encoder turns an image's patches into visual tokens and the taps that the scorer reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glimpse_runtime.arrays import FloatArray
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
    """

    grid: Grid
    embeds: Tensor
    features: Tensor
    received: FloatArray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return self.embeds.nbytes + self.features.nbytes + (self.received.nbytes if self.received is not None else 0)


class VisionEncoder:
    """Encodes images, one at a time."""

    def __init__(self, manifest: Manifest, family: Family, backend: Backend, engine: Engine, emit: Emit) -> None:
        """Takes the loaded graph; ``emit`` gets intermediate tensors by name."""
        self._manifest = manifest
        self._family = family
        self._backend = backend
        self._engine = engine
        self._emit = emit

    def __call__(self, image: Patches, interrupt: Interrupt) -> VisualTokens:
        """Runs the vision encoder on one image."""
        vision, grid = self._manifest.vision, image.grid
        inputs = {"pixel_values": image.pixel_values, **self._family.vision_inputs(grid)}
        # Memory of their own, not the engine's: they stay, and what the engine worked in can go.
        count, taps = grid.visual_tokens, len(vision.taps)
        embeds = self._backend.allocate((count, self._manifest.text.hidden_size), "float32")
        features = self._backend.allocate((taps, count, vision.hidden_size), "float32")
        out = self._engine.run(inputs, interrupt, {"image_embeds": embeds, "features": features})
        received = self._backend.download(out[RECEIVED]).copy() if RECEIVED in out else None
        for name, value in inputs.items():
            self._emit(f"vision.{name}", value)
        emit_trace(out, self._emit)
        self._emit("image_embeds", embeds)
        self._emit("visual_features", features)
        return VisualTokens(grid, embeds, features, received)

    def close(self) -> None:
        """Frees the graph."""
        self._engine.close()


def emit_trace(outputs: Mapping[str, Tensor], emit: Emit) -> None:
    """Hands on the outputs that a graph has for tracing alone."""
    for name, value in outputs.items():
        if name.startswith("trace."):
            emit(name, value)
