"""Checks the embedding table, the final norm and the LM head, a run of rows at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.checks.decoder import DecoderCheck
from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference.base import Reference
from glimpse_export.certify.written.cuts import EXACT, FAST, Piece
from glimpse_export.certify.written.matrix import runs
from glimpse_export.certify.written.stored import as_tensor, table_errors
from glimpse_export.certify.written.weights import MEASURE, WeightCheck
from glimpse_export.model.architecture import Architecture
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.matrix import CHUNK_VALUES
from glimpse_export.weights.precision import INTEGER
from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.bundle.manifest import Manifest

STAGE = "upper"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
_EMBEDDING_STAGE = "embedding"


class HeadCheck:
    """Embedding and LM head, which may be one matrix."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        architecture: Architecture,
        checkpoint: Checkpoint,
        base: Reference,
        upper: DecoderCheck,
        weights: WeightCheck,
        recorder: Recorder,
        graph_bounds: Bounds,
    ) -> None:
        """Prepares."""
        self._folder, self._spec = folder, manifest.embedding
        self._precision = manifest.precision["head"]
        self._tied = architecture.text.tied
        self.name = EMBEDDING if self._tied else "lm_head.weight"
        self._checkpoint, self._base, self._upper = checkpoint, base, upper
        self._weights, self._recorder, self._bounds = weights, recorder, graph_bounds
        last = f"layer.{architecture.text.layers - 1}"
        self._starts = [f"{last}.mlp", f"{last}.residual"] if upper.layers else ["hidden_in"]

    def embed(self, ids: IntArray) -> torch.Tensor:
        """Returns (tokens, hidden) rows of the checkpoint's embedding."""
        rows = {token: self._checkpoint.read(EMBEDDING, token, token + 1) for token in sorted(set(ids.tolist()))}
        return as_tensor(np.concatenate([rows[token] for token in ids.tolist()]))

    def table(self) -> None:
        """Checks an embedding table that is not the head as well."""
        if self._tied:
            return
        matrix = self._checkpoint.matrix(EMBEDDING)
        wrong = sum(self._table_errors(start, as_tensor(matrix.read(start, stop))) for start, stop in matrix.runs())
        self._recorder.at_most(_EMBEDDING_STAGE, None, MEASURE, wrong, 0)

    def check(self, ours: list[FloatArray], reference: torch.Tensor) -> tuple[FloatArray, FloatArray]:
        """Checks norm and head on the last row of every prompt.

        Args:
            ours: the bundle's rows after the last layer, per prompt.
            reference: (prompts, hidden) the reference's last rows.

        Returns:
            (prompts, vocabulary) logits of the bundle and of the reference.
        """
        norms = self._weights.originals([NORM])
        normed = self._base.final_norm(reference, norms[NORM])
        self._weights.swap(norms, self._upper.stored, STAGE, None, lambda name: self._precision)
        mine = self._base.final_norm(torch.from_numpy(np.stack([part[-1] for part in ours])), norms[NORM])
        wrong = table = 0
        stored = self._upper.stored.open(self.name, self._checkpoint.shapes[self.name])
        expected, structural = (torch.empty(len(part), stored.rows) for part in (normed, mine))
        for start, stop in runs(stored):
            rows = as_tensor(self._checkpoint.read(self.name, start, stop))
            if self._tied:
                table += self._table_errors(start, rows)
            expected[:, start:stop] = normed @ rows.T
            rows, bad = stored.judge(start, rows)
            wrong += bad
            structural[:, start:stop] = mine @ rows.T
        del stored
        self._recorder.at_most(STAGE, None, f"{MEASURE} {self.name}", wrong, 0)
        if self._tied:
            self._recorder.at_most(_EMBEDDING_STAGE, None, MEASURE, table, 0)
        found = self.logits(ours, FAST)
        self._recorder.finite(STAGE, None, found)
        exact = self.logits(ours, EXACT) if self._precision in INTEGER else found
        error = measure.relative_l2(exact, structural.numpy())
        self._recorder.at_most(STAGE, None, "head_graph_error", error, self._bounds.graph)
        return found, expected.numpy()

    def logits(self, rows: list[FloatArray], level: int) -> FloatArray:
        """(prompts, vocabulary): what the graph's norm and head make of the last row of every prompt."""
        last = [np.ascontiguousarray(part[-1:])[None] for part in rows]
        parts = []
        for piece in self._pieces(level):
            out = [piece(dict(zip(self._starts, (row, np.zeros_like(row)), strict=False)))[0] for row in last]
            parts.append(np.concatenate([row.reshape(1, -1) for row in out]))
        return np.concatenate(parts, axis=1)

    def _pieces(self, level: int) -> Iterator[Piece]:
        """Yields norm and head, for some logits after the other: onnxruntime widens and copies the weights it loads."""
        graph = self._upper.graph
        maker = graph.maker("logits")
        for end in maker.input if maker.op_type == "Concat" else ["logits"]:
            weights = graph.weights_by_rows(self._starts, end)
            if not weights:
                yield Piece(graph, self._starts, [end], level)
            for name, count in weights.items():
                step = max(CHUNK_VALUES // self._checkpoint.shapes[self.name][1], 1)
                for start in range(0, count, step):
                    rows = {name: (start, min(start + step, count))}
                    yield Piece(graph, self._starts, [end], level, rows)

    def reference_logits(self, rows: torch.Tensor) -> FloatArray:
        """(rows, vocabulary) the reference's logits."""
        normed = self._base.final_norm(rows, self._weights.originals([NORM])[NORM])
        matrix = self._checkpoint.matrix(self.name)
        parts = [normed @ as_tensor(matrix.read(start, stop)).T for start, stop in matrix.runs()]
        found: FloatArray = torch.cat(parts, 1).numpy()
        return found

    def _table_errors(self, start: int, rows: torch.Tensor) -> int:
        return table_errors(self._folder / self._spec.file, self._spec.dtype, start, rows)
