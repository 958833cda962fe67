"""Checks the vision encoder block by block: weights, graph and accumulated error, and the taps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder, Stop
from glimpse_export.certify.reference.base import Layer, Reference
from glimpse_export.certify.trials.inputs import Inputs
from glimpse_export.certify.written.cuts import EXACT, FAST, GraphFile, Piece
from glimpse_export.certify.written.stored import StoredWeights
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_export.weights.precision import INTEGER
from glimpse_runtime.arrays import Array, FloatArray
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.inputs.family import open_family

STAGE = "vision"


@dataclass
class Seen:
    """What one side made of the images, one entry each.

    Attributes:
        embeds: (visual tokens, hidden).
        features: (taps, visual tokens, vision hidden).
    """

    embeds: list[FloatArray]
    features: list[FloatArray]


class VisionCheck:
    """Runs the original's encoder and the written graph side by side."""

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
        """Opens the graph."""
        self._graph = GraphFile(folder / stages[STAGE].file)
        self.stored = StoredWeights(self._graph)
        self._precision = manifest.precision[STAGE]
        self._taps = base.taps
        self._base, self._weights, self._recorder, self._bounds = base, weights, recorder, bounds
        self._images = inputs.images
        self._grids = [(image.grid.rows, image.grid.columns) for image in inputs.images]
        self._arranged = base.arrange(self._grids)
        self._order = self._arranged.order
        family = open_family(manifest)
        # A graph that reads other states than it should needs the pixels to get at them.
        self._given: list[dict[str, Array]] = [
            {"pixel_values": image.pixel_values, **family.vision_inputs(image.grid)} for image in inputs.images
        ]
        self._hidden: list[FloatArray] = []
        self._tapped: dict[int, list[FloatArray]] = {}
        self._reference_taps: dict[int, FloatArray] = {}
        self._embeds: list[FloatArray] = []
        self._reference_embeds: FloatArray = np.zeros(0, np.float32)

    def run(self) -> tuple[Seen, Seen]:
        """Checks everything; returns what the bundle and what the reference saw."""
        pixels = np.concatenate([image.pixel_values for image in self._images])
        self._base.see(pixels, self._grids, self._embed, self._block, self._merge)
        reference = self._reference_seen()
        ours = Seen(self._embeds, self._features())
        for name, found, expected in (
            ("image_embeds", ours.embeds, reference.embeds),
            *(
                (f"tap_{tap}", [part[index] for part in ours.features], [part[index] for part in reference.features])
                for index, tap in enumerate(self._taps)
            ),
        ):
            a, b = np.concatenate(found), np.concatenate(expected)
            self._recorder.at_most(STAGE, None, f"{name}_relative_l2", measure.relative_l2(a, b), self._bounds.vision)
            self._recorder.at_least(STAGE, None, f"{name}_cosine", measure.cosine(a, b), None)
        return ours, reference

    def _embed(self, _: int, layer: Layer, pixels: torch.Tensor) -> torch.Tensor:
        self._hidden, out = self._step(layer, pixels, None, ["pixel_values"], "patch_embed", pixels)
        self._tap(-1, out.numpy())
        return out

    def _block(self, index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        before = _mark(index - 1)
        mine = torch.from_numpy(np.concatenate(self._hidden))[self._order]
        self._hidden, out = self._step(layer, hidden, index, [before], f"block.{index}", mine)
        reference = self._in_order(out)
        joined = np.concatenate(self._hidden)
        for name in ("relative_l2", "cosine", "max_abs"):
            value = getattr(measure, name)(joined, reference)
            self._recorder.at_most(STAGE, index, f"hidden_{name}", value, None)
        self._tap(index, reference)
        return out

    def _tap(self, block: int, reference: FloatArray) -> None:
        """Keeps what both sides have behind a block that the scorer reads."""
        if block in self._taps:
            self._tapped[block], self._reference_taps[block] = self._hidden, reference

    def _merge(self, block: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        mine = torch.from_numpy(np.concatenate(self._hidden))[self._order]
        self._embeds, out = self._step(layer, hidden, None, [_mark(block)], "image_embeds", mine)
        back = torch.empty_like(out)
        back[self._arranged.token_order] = out
        self._reference_embeds = back.numpy()
        return out

    def _step(
        self, layer: Layer, hidden: torch.Tensor, index: int | None, starts: list[str], end: str, mine: torch.Tensor
    ) -> tuple[list[FloatArray], torch.Tensor]:
        """Runs one part on both sides; returns the bundle's output per image and the reference's."""
        weights = self._weights.originals(layer.names)
        out = layer(hidden, weights)
        inputs = self._hidden if end != "patch_embed" else [image.pixel_values for image in self._images]
        ours = self._piece(starts, end, inputs)
        self._recorder.finite(STAGE, index, *ours)
        if sum(map(len, ours)) != len(out):
            self._recorder.at_most(STAGE, index, "different_rows", abs(sum(map(len, ours)) - len(out)), 0)
            raise Stop
        original = layer(mine, weights).numpy() if self._precision != "fp32" else None
        self._weights.swap(weights, self.stored, STAGE, index, lambda name: self._precision)
        if original is not None:
            self._judge(np.concatenate(ours), original, mine, index, end, "layer_error")
        exact = self._piece(starts, end, inputs, EXACT) if self._precision in INTEGER else ours
        self._judge(np.concatenate(exact), layer(mine, weights).numpy(), mine, index, end, "graph_error")
        return ours, out

    def _judge(
        self, found: FloatArray, expected: FloatArray, before: torch.Tensor, index: int | None, end: str, name: str
    ) -> None:
        """Records the error of one part's own contribution, both sides fed with the same input."""
        order = self._order.numpy()
        if end == "image_embeds":
            error = measure.relative_l2(found[self._arranged.token_order.numpy()], expected)
        elif end == "patch_embed":
            error = measure.relative_l2(found, expected)
        else:
            error = measure.contribution_error(found[order], expected, before.numpy())
        bound = self._bounds.graph if name == "graph_error" else self._bounds.layer
        self._recorder.at_most(STAGE, index, name if index is not None else f"{end}_{name}", error, bound)

    def _piece(self, starts: list[str], end: str, inputs: list[FloatArray], level: int = FAST) -> list[FloatArray]:
        piece = Piece(self._graph, starts, [end], level)
        marked = starts[0] != "pixel_values"
        outputs = []
        for hidden, given in zip(inputs, self._given, strict=True):
            (out,) = piece({**given, starts[0]: hidden[None] if marked else hidden})
            outputs.append(out[0] if out.ndim == 3 else out)
        return outputs

    def _features(self) -> list[FloatArray]:
        """The graph's own taps of the bundle's block outputs; how they are put together is checked here too."""
        piece = Piece(self._graph, [_mark(tap) for tap in self._taps], ["features"])
        outputs = []
        for index, given in enumerate(self._given):
            (out,) = piece({**given, **{_mark(tap): self._tapped[tap][index][None] for tap in self._taps}})
            outputs.append(out)
            for place, tap in enumerate(self._taps):
                expected = self._arranged.tap(self._tapped[tap][index])
                error = measure.relative_l2(out[place], expected)
                self._recorder.at_most(STAGE, tap, "tap_graph_error", error, self._bounds.graph)
        return outputs

    def _reference_seen(self) -> Seen:
        means = [self._arranged.tap(self._reference_taps[tap]) for tap in self._taps]
        cuts = np.cumsum([image.grid.visual_tokens for image in self._images])[:-1]
        return Seen(np.split(self._reference_embeds, cuts), np.split(np.stack(means), cuts, axis=1))

    def _in_order(self, hidden: torch.Tensor) -> FloatArray:
        """Rows of transformers' blocks in the image processor's order."""
        out = torch.empty_like(hidden)
        out[self._order] = hidden
        found: FloatArray = out.numpy()
        return found


def _mark(block: int) -> str:
    """The name in the graph of the states behind a block; -1 is before the first."""
    return "patch_embed" if block < 0 else f"block.{block}"
