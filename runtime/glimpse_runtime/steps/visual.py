"""The two graphs that look at images one by one: the vision encoder and the scorer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.inputs.positions import patch_windows, token_rope, token_windows, vision_rope
from glimpse_runtime.inputs.preprocess import Grid, Patches
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


class Visual:
    """Encodes images, and scores their visual tokens."""

    def __init__(self, manifest: Manifest, backend: Backend, vision: Engine, scorer: Engine, emit: Emit) -> None:
        """Takes the loaded graphs; ``emit`` gets intermediate tensors by name."""
        self._manifest = manifest
        self._backend = backend
        self._vision = vision
        self._scorer = scorer
        self._emit = emit

    def encode(self, image: Patches, interrupt: Interrupt) -> VisualTokens:
        """Runs the vision encoder on one image."""
        vision, grid = self._manifest.vision, image.grid
        windows = patch_windows(grid, vision.window_size, vision.patch_size)
        cos, sin = vision_rope(grid, vision.head_dim, vision.rope_theta)
        inputs = {"pixel_values": image.pixel_values, "cos": cos, "sin": sin, **windows.inputs()}
        # Memory of their own, not the engine's: they stay, and what the engine worked in can go.
        count, taps = grid.visual_tokens, len(vision.taps)
        embeds = self._backend.allocate((count, self._manifest.text.hidden_size), "float32")
        features = self._backend.allocate((taps, count, vision.hidden_size), "float32")
        out = self._vision.run(inputs, interrupt, {"image_embeds": embeds, "features": features})
        received = self._backend.download(out[RECEIVED]).copy() if RECEIVED in out else None
        self._emit("pixel_values", image.pixel_values)
        self._emit("window_order", windows.order)
        self._emit("window_lengths", windows.lengths)
        self._emit("image_embeds", embeds)
        self._emit("visual_features", features)
        return VisualTokens(grid, embeds, features, received)

    def score(
        self,
        attention: Tensor,
        visual_rows: IntArray,
        images: Sequence[VisualTokens],
        cells: Sequence[IntArray],
        interrupt: Interrupt,
    ) -> FloatArray:
        """Scores the visual tokens of a prompt, image by image.

        Tokens that did not enter the decoder are not there for the scorer either: the others keep their places, taps
        and windows, and attend to each other.

        Args:
            attention: (layers * heads, rows) the glimpse's attention to all rows of the decoder.
            visual_rows: (tokens,) the rows that are visual tokens of all images in order.
            images: the encoded images.
            cells: for each image the (tokens,) places of those tokens, row-major on the merged grid.
            interrupt: ends the request early.

        Returns:
            (tokens,) float32 logits.
        """
        parts, start = [], 0
        for image, own in zip(images, cells, strict=True):
            end = start + len(own)
            if end > start:
                parts.append(self._score_image(attention, visual_rows[start:end], image, own, interrupt))
            start = end
        rows: FloatArray = np.concatenate(parts, axis=1)
        self._emit("mask_logits", rows)
        deciding: FloatArray = rows[-1]
        return deciding

    def close(self) -> None:
        """Frees the graphs."""
        self._vision.close()
        self._scorer.close()

    def _score_image(
        self, attention: Tensor, visual_rows: IntArray, image: VisualTokens, cells: IntArray, interrupt: Interrupt
    ) -> FloatArray:
        """(output rows, tokens) float32 of one image; the last row decides."""
        scorer, vision = self._manifest.scorer, self._manifest.vision
        cos, sin = token_rope(image.grid, scorer.head_dim, scorer.rope_theta)
        features = image.features
        if len(cells) < image.grid.visual_tokens:
            cos, sin = cos[cells], sin[cells]
            features = self._backend.download(features)[:, cells]
        windows = token_windows(image.grid, vision.window_size, vision.patch_size, cells)
        out = self._scorer.run(
            {
                "attention": attention,
                "visual_rows": visual_rows,
                "features": features,
                "cos": cos,
                "sin": sin,
                **windows.inputs(),
            },
            interrupt,
        )
        emit_trace(out, self._emit)
        return self._backend.download(out["token_logits"]).copy()


def emit_trace(outputs: Mapping[str, Tensor], emit: Emit) -> None:
    """Hands on the outputs that a graph has for tracing alone."""
    for name, value in outputs.items():
        if name.startswith("trace."):
            emit(name, value)
