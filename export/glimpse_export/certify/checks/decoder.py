"""Checks decoder layers one at a time: weights, graph and accumulated error, and the glimpse's attention."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference import glimpse
from glimpse_export.certify.reference.base import Cache, Layer
from glimpse_export.certify.trials.packed import Packed
from glimpse_export.certify.written.cuts import EXACT, FAST, GraphFile, Piece
from glimpse_export.certify.written.stored import StoredWeights
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_export.model.architecture import Architecture
from glimpse_export.weights.precision import INTEGER, coarsest, lower_part
from glimpse_runtime.arrays import Array, FloatArray
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.inputs.rope import TextRope

State = dict[str, Array]


class DecoderCheck:
    """The layers of one decoder graph, ``lower`` or ``upper``."""

    def __init__(
        self,
        stage: str,
        layers: range,
        folder: Path,
        manifest: Manifest,
        stages: Mapping[str, StageSpec],
        architecture: Architecture,
        weights: WeightCheck,
        recorder: Recorder,
        graph_bounds: Bounds,
    ) -> None:
        """Opens the graph."""
        self.stage, self.layers = stage, layers
        spec = stages[stage]
        self.graph = GraphFile(folder / spec.file)
        self.stored = StoredWeights(self.graph)
        self._precision, self._parts = matrices_precision(manifest, stage), manifest.precision
        self._architecture, self._weights = architecture, weights
        self._recorder, self._bounds = recorder, graph_bounds
        text = manifest.text
        self._rope = TextRope(text.head_dim, text.rope_theta, text.rope_sections)
        past = [tensor for tensor in spec.inputs if tensor.name.startswith("past.")]
        self._cache_specs = {tensor.name[len("past.") :]: tensor for tensor in past}
        maps = list(self.graph.maker("glimpse_attention").input) if "glimpse_attention" in self.graph.outputs else []
        self._map_names = dict(zip(architecture.glimpse.selected_layers, maps, strict=True)) if maps else {}

    def start(
        self, packed: Packed, ours: list[FloatArray], vectors: torch.Tensor | None, gate: FloatArray | None
    ) -> None:
        """Takes the rows that enter.

        Args:
            packed: their owners and positions.
            ours: the bundle's, one array per prompt.
            vectors: the reference's glimpse vectors, (listed layers, glimpse rows, hidden), where there are any.
            gate: (rows, glimpse rows) 1 where a row is a glimpse row.
        """
        self._packed, self.ours = packed, ours
        self._vectors, self._gate = vectors, gate
        self.maps: dict[int, tuple[list[FloatArray], list[FloatArray]]] = {}
        self._image_rows = np.zeros(len(packed.owner), np.bool_)

    def watch(self, image_rows: Array) -> None:
        """Says which rows are visual tokens, whose attention is compared in the selected layers."""
        self._image_rows = image_rows

    def stacked_maps(self, side: int) -> list[FloatArray]:
        """Returns (visual tokens, layers * heads) per prompt: 0 is the bundle's side, 1 the reference's."""
        selected = [self.maps[layer][side] for layer in self._architecture.glimpse.selected_layers]
        return [np.concatenate(parts, axis=1) for parts in zip(*selected, strict=True)]

    def visit(
        self, index: int, layer: Layer, hidden: torch.Tensor, cache: Cache | None, states: list[State]
    ) -> torch.Tensor:
        """Runs one layer on both sides.

        Args:
            index: the layer's number.
            layer: transformers' layer.
            hidden: (1, rows, hidden) the reference's rows.
            cache: the reference's KV cache; None keeps none.
            states: the bundle's KV cache per prompt; filled with this layer's buffers.

        Returns:
            The reference's rows after the layer.
        """
        added = self._added(index)
        weights = self._weights.originals(layer.names)
        out = layer(hidden + added, weights, cache)
        before = np.concatenate(self.ours)
        selected = index in self._map_names
        maps = self._maps(hidden[0] + added, weights, index) if selected else []
        ours, our_maps = self.run(index, self.ours, self._packed, FAST, states)
        self._recorder.finite(self.stage, index, *ours, *our_maps)
        entered = torch.from_numpy(before) + added
        rounding = None
        if self._precision != "fp32":
            expected = layer(entered[None], weights)[0].numpy()
            rounding = measure.contribution_error(np.concatenate(ours), expected, entered.numpy())
        self._weights.swap(weights, self.stored, self.stage, index, self._stored_precision)
        if rounding is not None:
            self._recorder.at_most(self.stage, index, "layer_error", rounding, self._bounds.layer)
        exact, exact_maps = ours, our_maps
        if self._precision in INTEGER:
            exact, exact_maps = self.run(index, self.ours, self._packed, EXACT, [{} for _ in states])
        expected = layer(entered[None], weights)[0].numpy()
        error = measure.contribution_error(np.concatenate(exact), expected, entered.numpy())
        self._recorder.at_most(self.stage, index, "graph_error", error, self._bounds.graph)
        if selected:
            wanted = np.concatenate(self._maps(entered, weights, index))
            error = measure.relative_l2(np.concatenate(exact_maps), wanted)
            self._recorder.at_most(self.stage, index, "attention_graph_error", error, self._bounds.graph)
            self.maps[index] = (our_maps, maps)
        self.ours = ours
        joined, reference = np.concatenate(ours), out[0].numpy()
        for name in ("relative_l2", "cosine", "max_abs"):
            self._recorder.at_most(self.stage, index, f"hidden_{name}", getattr(measure, name)(joined, reference), None)
        return out

    def _stored_precision(self, name: str) -> str:
        return self._parts[lower_part(name) if self.stage == "lower" else self.stage]

    def run(
        self,
        index: int,
        hidden: list[FloatArray],
        packed: Packed,
        level: int,
        states: list[State],
        past: int | None = None,
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Runs one layer of the graph on every prompt.

        Args:
            index: the layer's number.
            hidden: (rows, hidden) per prompt.
            packed: their positions.
            level: what products of integer weights are computed in.
            states: KV buffers per prompt; missing ones are made for these rows alone.
            past: rows that every given buffer holds already, read from the buffers' own length where None.

        Returns:
            Rows after the layer, and the glimpse's attention (visual tokens, heads) in a selected layer.
        """
        starts, ends = self._ends(index)
        piece = Piece(self.graph, starts, ends, level)
        outputs, maps = [], []
        for prompt, (values, state) in enumerate(zip(hidden, states, strict=True)):
            where = packed.of(prompt)
            buffers, done = self._buffers(index, state, len(values))
            found = piece(self._values(starts, values, packed.positions[:, where], done, where), buffers)
            state.update({name: _rows(buffer, done + len(values)) for name, buffer in buffers.items()})
            if ends[0] == "hidden_out":
                outputs.append(found[0][0])
            else:
                outputs.append((found[0] + found[1])[0])
            if index in self._map_names:
                wanted = np.flatnonzero(self._image_rows[where])
                maps.append(np.ascontiguousarray(found[-1][:, wanted].T))
        return outputs, maps

    def _ends(self, index: int) -> tuple[list[str], list[str]]:
        first, last = index == self.layers[0], index == self.layers[-1]
        starts = ["hidden_in"] if first else [f"layer.{index - 1}.mlp", f"layer.{index - 1}.residual"]
        whole = last and "hidden_out" in self.graph.outputs
        ends = ["hidden_out"] if whole else [f"layer.{index}.mlp", f"layer.{index}.residual"]
        ends += [f"present.{index}.{part}" for part in ("key", "value")]
        if index in self._map_names:
            ends.append(self._map_names[index])
        return starts, ends

    def _values(
        self, starts: list[str], values: FloatArray, positions: Array, done: int, where: slice
    ) -> Mapping[str, Array]:
        cos, sin = self._rope(positions)
        total = done + len(values)
        hidden = values[None]
        inputs: dict[str, Array] = {
            "cos": cos,
            "sin": sin,
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "scored_columns": np.array([total], np.int64),
            "slots": np.arange(done, total),
            starts[0]: hidden,
        }
        if len(starts) > 1:
            inputs[starts[1]] = np.zeros_like(hidden)
        length = self._architecture.glimpse.length
        gate = np.zeros((len(values), length), np.float32) if self._gate is None else self._gate[where]
        return {**inputs, "glimpse_gate": gate[None]}

    def _buffers(self, index: int, state: State, rows: int) -> tuple[State, int]:
        """A layer's KV buffers, as long as the graph has them or with room for some rows; how many rows they hold."""
        buffers, done = {}, 0
        for name in (f"{index}.{part}" for part in ("key", "value")):
            spec = self._cache_specs[name]
            done = state[name].shape[2] if name in state else 0
            shape = [dim if isinstance(dim, int) else done + rows for dim in spec.shape]
            buffers[name] = np.zeros(shape, spec.dtype)
            if done:
                buffers[name][:, :, :done] = state[name]
        return buffers, done

    def _added(self, index: int) -> torch.Tensor:
        """(rows, hidden) what the glimpse adds to the rows before a layer."""
        size = (len(self._packed.owner), self._architecture.text.hidden_size)
        listed = self._architecture.glimpse.layers
        if self._vectors is None or self._gate is None or index not in listed:
            return torch.zeros(size)
        return torch.from_numpy(self._gate) @ self._vectors[listed.index(index)]

    def _maps(self, entered: torch.Tensor, weights: Mapping[str, torch.Tensor], index: int) -> list[FloatArray]:
        maps = []
        for prompt in range(self._packed.prompts):
            where = self._packed.of(prompt)
            every = torch.ones(where.stop - where.start, dtype=torch.bool)
            found = glimpse.attention_map(
                entered[where],
                weights,
                index,
                torch.from_numpy(self._packed.positions[:, where]),
                every,
                torch.from_numpy(self._image_rows[where]),
                self._architecture,
            )
            maps.append(found.numpy())
        return maps


def _rows(buffer: Array, count: int) -> Array:
    """The first rows of a KV buffer, without memory for the others."""
    return buffer if buffer.shape[2] == count else buffer[:, :, :count].copy()


def matrices_precision(manifest: Manifest, stage: str) -> str:
    """Returns the coarsest precision of the matrices of the lower or upper layers."""
    parts = ("lower", "lower_attention") if stage == "lower" else (stage,)
    return coarsest(*(manifest.precision[part] for part in parts))
