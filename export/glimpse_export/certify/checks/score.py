"""Checks the scorer block by block, and the selection that follows from its logits."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.checks.vision import Seen
from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference import glimpse
from glimpse_export.certify.trials.inputs import Inputs, Trial
from glimpse_export.certify.written.cuts import GraphFile, Piece
from glimpse_export.certify.written.stored import StoredWeights
from glimpse_export.certify.written.weights import MEASURE
from glimpse_export.model.architecture import Architecture
from glimpse_runtime.arrays import Array, BoolArray, FloatArray
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.rope import token_rope
from glimpse_runtime.pruning import rule as rules
from glimpse_runtime.pruning.options import Pruning

STAGE, SELECT = "score", "select"
_PREFIX = "attn_fuser."
# A decision counts when it is this many times the allowed error away from going the other way.
_CLEAR = 2.0
_DECIDED_OVERLAP = 1.0


class ScoreCheck:
    """The scorer on both sides."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        stages: Mapping[str, StageSpec],
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        recorder: Recorder,
        graph_bounds: Bounds,
        bounds: Bounds,
    ) -> None:
        """Opens the graph."""
        self._graph = GraphFile(folder / stages[STAGE].file)
        self._stored = StoredWeights(self._graph)
        self._manifest, self._architecture, self._tensors = manifest, architecture, tensors
        self._recorder, self._graph_bounds, self._bounds = recorder, graph_bounds, bounds
        blocks = [f"block.{index}" for index in range(len(architecture.scorer.taps))]
        self._states = ["attn_in", *blocks]
        self._pieces = [Piece(self._graph, [], ["attn_in"])]
        self._pieces += [Piece(self._graph, [a], [b]) for a, b in zip(self._states, self._states[1:], strict=False)]
        self._last = Piece(self._graph, [self._states[-1]], ["token_logits"])

    def weights(self) -> None:
        """Checks that every tensor the reference reads is stored as it is."""
        used = [name for name in self._tensors if name.startswith(_PREFIX)]
        read = [name for name in used if name in self._needed()]
        total = 0
        for name in read:
            if name[len(_PREFIX) :] not in self._stored.names:
                wrong = self._tensors[name].numel()
            else:
                wrong = self._stored.compare(name[len(_PREFIX) :], self._tensors[name])[1]
            if wrong:
                self._recorder.at_most(STAGE, None, f"{MEASURE} {name}", wrong, 0)
            total += wrong
        self._recorder.at_most(STAGE, None, MEASURE, total, 0)

    def run(
        self, inputs: Inputs, seen: tuple[Seen, Seen], maps: tuple[list[FloatArray], list[FloatArray]]
    ) -> list[BoolArray]:
        """Scores and selects for every prompt.

        Args:
            inputs: the prompts.
            seen: what the bundle and the reference saw in the images.
            maps: (visual tokens, layers * heads) per prompt, of the bundle and of the reference.

        Returns:
            The reference's keep masks.
        """
        kept = []
        for index, trial in enumerate(inputs.trials):
            grids = trial.prompt.grids
            ends = np.cumsum([grid.visual_tokens for grid in grids])[:-1]
            ours, reference = [], []
            for place, (image, mine, theirs) in enumerate(
                zip(trial.images, np.split(maps[0][index], ends), np.split(maps[1][index], ends), strict=True)
            ):
                ours.append(self._ours(mine, seen[0].features[image], grids[place]))
                reference.append(self._reference(theirs, seen[1].features[image], grids[place]))
            kept.append(self._select(trial, np.concatenate(ours), np.concatenate(reference)))
        return kept

    def _ours(self, maps: FloatArray, features: FloatArray, grid: Grid) -> FloatArray:
        """(visual tokens,) the graph's logits of one image; every block is checked on what the graph fed it."""
        merged, taps = grid.merged, torch.from_numpy(features)
        # Columns backwards, so that the graph has to look them up by their row.
        backwards = np.arange(len(maps))[::-1].copy()
        values: dict[str, Array] = {
            "attention": np.ascontiguousarray(maps[backwards].T),
            "visual_rows": backwards,
            "features": features,
            **_tables(grid, self._manifest),
        }
        for index, (name, piece) in enumerate(zip(self._states, self._pieces, strict=True)):
            (out,) = piece(values)
            self._recorder.finite(STAGE, index - 1 if index else None, out)
            if index == 0:
                expected = glimpse.score_input(torch.from_numpy(maps), self._tensors).numpy()
                error = measure.relative_l2(out[0], expected)
                self._recorder.at_most(STAGE, None, "input_graph_error", error, self._graph_bounds.graph)
            else:
                before = values[self._states[index - 1]][0]
                expected = glimpse.score_block(
                    torch.from_numpy(before), taps[index - 1], index - 1, self._tensors, merged, self._architecture
                ).numpy()
                error = measure.contribution_error(out[0], expected, before)
                self._recorder.at_most(STAGE, index - 1, "graph_error", error, self._graph_bounds.graph)
            values[name] = out
        (rows,) = self._last(values)
        states = torch.from_numpy(values[self._states[-1]][0])
        expected = glimpse.score_output(states, self._tensors, self._architecture).numpy()
        wanted = [expected]
        if self._architecture.scorer.attention_row:
            wanted.insert(0, glimpse.attention_row(torch.from_numpy(maps), self._architecture).numpy())
        error = measure.relative_l2(rows, np.stack(wanted))
        self._recorder.at_most(STAGE, None, "output_graph_error", error, self._graph_bounds.graph)
        found: FloatArray = rows[-1]
        return found

    def _reference(self, maps: FloatArray, features: FloatArray, grid: Grid) -> FloatArray:
        merged, taps = grid.merged, torch.from_numpy(features)
        x = glimpse.score_input(torch.from_numpy(maps), self._tensors)
        for index in range(len(self._architecture.scorer.taps)):
            x = glimpse.score_block(x, taps[index], index, self._tensors, merged, self._architecture)
        found: FloatArray = glimpse.score_output(x, self._tensors, self._architecture).numpy()
        return found

    def _select(self, trial: Trial, ours: FloatArray, reference: FloatArray) -> BoolArray:
        """Compares the kept sets; a token whose logit lies within the allowed error of the cut is not decided."""
        grids = trial.prompt.grids
        anchors = self._architecture.pruning.anchors if len(grids) == 1 else ()
        self._recorder.at_most(STAGE, None, "relative_l2", measure.relative_l2(ours, reference), self._bounds.score)
        self._recorder.at_least(STAGE, None, "cosine", measure.cosine(ours, reference), None)
        rule = rules.merge(Pruning(anchors=anchors), self._manifest.pruning)
        found = rules.select(ours, rule, grids)

        def choose(logits: FloatArray) -> BoolArray:
            merged = [grid.merged for grid in grids]
            return np.asarray(glimpse.kept(torch.from_numpy(logits), self._architecture, merged, anchors).numpy())

        expected = choose(reference)
        self._recorder.at_least(SELECT, None, "overlap", _overlap(found, expected), None)
        if self._bounds.score is not None:
            decided = _decided(reference, expected, _CLEAR * self._bounds.score * measure.rms(reference), choose)
            self._recorder.at_least(SELECT, None, "decided_tokens", int(decided.sum()), None)
            overlap = _overlap(found[decided], expected[decided])
            self._recorder.at_least(SELECT, None, "decided_overlap", overlap, _DECIDED_OVERLAP)
        return expected

    def _needed(self) -> set[str]:
        """Names of the tensors that the reference reads."""
        needed = _Reads(self._tensors)
        scorer = self._architecture.scorer
        x = glimpse.score_input(torch.zeros(1, self._tensors[f"{_PREFIX}attn_in_proj.weight"].shape[1]), needed)
        tap = torch.zeros(1, self._architecture.vision.hidden_size)
        for index in range(len(scorer.taps)):
            x = glimpse.score_block(x, tap, index, needed, (1, 1), self._architecture)
        glimpse.score_output(x, needed, self._architecture)
        return needed.names


class _Reads(Mapping[str, torch.Tensor]):
    """Notes which tensors are read."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self._tensors[name]
        self.names.add(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _overlap(found: BoolArray, expected: BoolArray) -> float:
    union = int((found | expected).sum())
    return int((found & expected).sum()) / union if union else 1.0


def _decided(
    logits: FloatArray, keep: BoolArray, tolerance: float, rule: Callable[[FloatArray], BoolArray]
) -> BoolArray:
    """(visual tokens,) which decisions stay when the token's logit moves the other way by ``tolerance``."""
    decided = np.empty(len(keep), np.bool_)
    for token in range(len(keep)):
        moved = logits.copy()
        moved[token] += -tolerance if keep[token] else tolerance
        decided[token] = rule(moved)[token] == keep[token]
    return decided


def _tables(grid: Grid, manifest: Manifest) -> dict[str, Array]:
    cos, sin = token_rope(grid, manifest.scorer.head_dim, manifest.scorer.rope_theta)
    every = np.arange(grid.visual_tokens)
    return {"cos": cos, "sin": sin, **open_family(manifest).score_inputs(grid, every)}
