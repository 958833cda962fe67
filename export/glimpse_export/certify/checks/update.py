"""Checks the graph that runs the changed patches of an image again, against the original run on mixed states.

What is left of unchanged patches is what they gave when they were last run. So before every block of the original, the
states of the unchanged patches are put back to those of the earlier image; what the block then gives for the changed
ones is exactly an update.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference.base import Layer, Reference
from glimpse_export.certify.trials.inputs import Inputs
from glimpse_export.certify.written.cuts import GraphFile, Piece
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_runtime.arrays import Array, FloatArray
from glimpse_runtime.bundle.checks import UPDATE_STAGE
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.inputs.family import open_family

_PAST = "past."


class UpdateCheck:
    """Encodes one image, changes a part of it and updates, on both sides."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        stages: Mapping[str, StageSpec],
        base: Reference,
        weights: WeightCheck,
        inputs: Inputs,
        recorder: Recorder,
        bounds: Bounds,
    ) -> None:
        """Opens the graph; the first image is the one that changes."""
        self._graph = GraphFile(folder / stages[UPDATE_STAGE].file)
        self._base, self._weights, self._recorder, self._bounds = base, weights, recorder, bounds
        image, grid = inputs.images[0], inputs.images[0].grid
        tokens = np.arange(grid.visual_tokens)
        rows, columns = np.divmod(tokens, grid.merged[1])
        # The lower right quarter, down to whole windows by what a window holds at most.
        side = max(manifest.family.get("window_size", 1) // manifest.vision.patch_size // grid.merge, 1)
        cells = tokens[(rows >= grid.merged[0] // 2 // side * side) & (columns >= grid.merged[1] // 2 // side * side)]
        self._all, self._changed = grid.patches_of(tokens), grid.patches_of(cells)
        self._cells, self._grid = cells, (grid.rows, grid.columns)
        after = image.pixel_values.copy()
        after[self._changed] = after[self._changed[::-1]] * np.float32(-0.5)
        family = open_family(manifest)
        self._pixels = [image.pixel_values, after]
        self._given: list[dict[str, Array]] = [
            {"rows": self._all, "pixel_values": image.pixel_values, **family.vision_inputs(grid)},
            {"rows": self._changed, "pixel_values": after[self._changed], **family.vision_inputs(grid, cells)},
        ]
        self._cache = {
            tensor.name[len(_PAST) :]: np.zeros((grid.patches, int(tensor.shape[1])), np.float32)
            for tensor in stages[UPDATE_STAGE].inputs
            if tensor.name.startswith(_PAST)
        }
        self._arranged = base.arrange([self._grid])
        self._tapped: dict[int, FloatArray] = {}
        self._hidden: list[FloatArray] = []

    def run(self) -> None:
        """Compares states, taps and visual tokens of the update."""
        self._base.see(np.concatenate(self._pixels), [self._grid] * 2, self._embed, self._block, self._merge)

    def _embed(self, _: int, layer: Layer, pixels: torch.Tensor) -> torch.Tensor:
        piece = Piece(self._graph, ["pixel_values"], ["patch_embed"])
        self._hidden = [_rows(piece(given)) for given in self._given]
        return layer(pixels, self._weights.originals(layer.names))

    def _block(self, index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        before, end = _mark(index - 1), f"block.{index}"
        names = [f"{index}.{part}" for part in ("key", "value") if f"{index}.{part}" in self._cache]
        piece = Piece(self._graph, [before], [end, *(f"present.{name}" for name in names)])
        state = {name: self._cache[name] for name in names}
        self._hidden = [
            _rows(piece({**given, before: mine[None]}, state))
            for given, mine in zip(self._given, self._hidden, strict=True)
        ]
        out = layer(self._mixed(hidden), self._weights.originals(layer.names))
        self._judge("hidden", index, self._hidden[1], self._after(out, self._arranged.order)[self._changed], None)
        if index in self._base.taps:
            reference = self._arranged.tap(self._after(out, self._arranged.order))[self._cells]
            self._tapped[index] = reference
            self._judge("tap", index, self._arranged.tap(self._hidden[1]), reference, self._bounds.vision)
        return out

    def _merge(self, block: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        before = _mark(block)
        piece = Piece(self._graph, [before], ["image_embeds"])
        found = _rows(piece({**self._given[1], before: self._hidden[1][None]}))
        out = layer(self._mixed(hidden), self._weights.originals(layer.names))
        expected = self._after(out, self._arranged.token_order)[self._cells]
        self._judge("image_embeds", None, found, expected, self._bounds.vision)
        return out

    def _mixed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Puts the states of the second image's unchanged patches back to the first image's."""
        earlier, later = torch.tensor_split(hidden, 2)
        changed = torch.zeros(len(later), dtype=torch.bool)
        changed[torch.from_numpy(self._changed)] = True
        return torch.cat([earlier, torch.where(changed[self._arranged.order][:, None], later, earlier)])

    def _after(self, out: torch.Tensor, order: torch.Tensor) -> FloatArray:
        """The second image's rows in the image processor's order."""
        later = out[len(out) // 2 :]
        back = torch.empty_like(later)
        back[order] = later
        found: FloatArray = back.numpy()
        return found

    def _judge(
        self, name: str, index: int | None, found: FloatArray, expected: FloatArray, bound: float | None
    ) -> None:
        self._recorder.finite(UPDATE_STAGE, index, found)
        error = measure.relative_l2(found, expected)
        self._recorder.at_most(UPDATE_STAGE, index, f"{name}_relative_l2", error, bound)


def _rows(outputs: list[Array]) -> FloatArray:
    """The first output as (rows, width)."""
    found: FloatArray = outputs[0].reshape(-1, outputs[0].shape[-1])
    return found


def _mark(block: int) -> str:
    return "patch_embed" if block < 0 else f"block.{block}"
