"""The glimpse's step: from its attention and the vision taps, one score per visual token (paper, section 3).

The scorer, the visual importance predictor of the paper, runs on one image at a time, behind ``lower`` and before
``select``.
"""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.rope import token_rope
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.steps.vision import Emit, VisualTokens, emit_trace


class Scorer:
    """Scores visual tokens."""

    def __init__(self, manifest: Manifest, family: Family, backend: Backend, engine: Engine, emit: Emit) -> None:
        """Takes the loaded graph; ``emit`` gets intermediate tensors by name."""
        self._manifest = manifest
        self._family = family
        self._backend = backend
        self._engine = engine
        self._emit = emit

    def __call__(
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
        """Frees the graph."""
        self._engine.close()

    def _score_image(
        self, attention: Tensor, visual_rows: IntArray, image: VisualTokens, cells: IntArray, interrupt: Interrupt
    ) -> FloatArray:
        """(output rows, tokens) float32 of one image; the last row decides."""
        scorer = self._manifest.scorer
        cos, sin = token_rope(image.grid, scorer.head_dim, scorer.rope_theta)
        features = image.features
        if len(cells) < image.grid.visual_tokens:
            cos, sin = cos[cells], sin[cells]
            features = self._backend.download(features)[:, cells]
        out = self._engine.run(
            {
                "attention": attention,
                "visual_rows": visual_rows,
                "features": features,
                "cos": cos,
                "sin": sin,
                **self._family.score_inputs(image.grid, cells),
            },
            interrupt,
        )
        emit_trace(out, self._emit)
        return self._backend.download(out["token_logits"]).copy()
