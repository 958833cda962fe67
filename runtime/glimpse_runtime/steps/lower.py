"""Layers 0..K on all rows of a prompt, with the glimpse token behind them (paper, section 3)."""

import itertools
from collections.abc import Sequence

import numpy as np

from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.embedding import EmbeddingTable
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.steps.cache import KVCache
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.prefix import Prefix
from glimpse_runtime.steps.rows import RowBatch, RowRunner
from glimpse_runtime.steps.vision import Emit, VisualTokens, emit_trace


class LowerLayers:
    """Runs what enters layer 0 up to the split."""

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        embedding: EmbeddingTable,
        run_rows: RowRunner,
        engine: Engine,
        cache: KVCache,
        emit: Emit,
    ) -> None:
        """Allocates the hidden states before the first layer and behind layer K."""
        self._manifest = manifest
        self._backend = backend
        self._embedding = embedding
        self._run_rows = run_rows
        self._engine = engine
        self._cache = cache
        self._emit = emit
        # Memory of the host is taken as it is touched.
        shape = (1, cache.capacity, manifest.text.hidden_size)
        self._hidden_in, self._hidden = backend.allocate(shape, "float32"), backend.allocate(shape, "float32")

    def __call__(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        prefix: Prefix | None,
        glimpse_rows: int,
        interrupt: Interrupt,
    ) -> tuple[Tensor, Tensor]:
        """Runs what is not in the prefix.

        Args:
            entry: the prompt as it enters layer 0.
            images: its encoded images.
            prefix: the entry's start if it was run before; None runs all of it.
            glimpse_rows: how many glimpse rows run behind the prompt; they leave nothing in the cache.
            interrupt: ends the request early.

        Returns:
            (1, rows, hidden) float32 behind layer K, valid until the next run, and the last row's attention.
        """
        self._cache.length = 0
        done = 0
        if prefix is not None:
            done = len(prefix.ids)
            self._cache.restore(prefix.cache)
            self._backend.copy(prefix.hidden, self._backend.rows(self._hidden, 0, done))
        attention = self._run(entry, done, len(entry.ids), images, glimpse_rows, interrupt)
        self._cache.length = len(entry.ids)
        return self._backend.rows(self._hidden, 0, len(entry.ids)), attention

    def prefix(self, entry: Entry, images: Sequence[VisualTokens], interrupt: Interrupt) -> Prefix:
        """Runs an entry up to its last visual token, for questions to start from."""
        count = int(entry.visual_rows[-1]) + 1
        self._cache.length = 0
        self._run(entry, 0, count, images, 0, interrupt)
        hidden = self._backend.allocate((1, count, self._manifest.text.hidden_size), "float32")
        self._backend.copy(self._backend.rows(self._hidden, 0, count), hidden)
        ids, positions = entry.ids[:count].copy(), entry.positions[:, :count].copy()
        return Prefix(ids, positions, hidden, self._cache.save())

    def _run(
        self,
        entry: Entry,
        done: int,
        stop: int,
        images: Sequence[VisualTokens],
        glimpse_rows: int,
        interrupt: Interrupt,
    ) -> Tensor:
        """Runs rows ``done`` to ``stop`` and returns the last row's attention.

        Glimpse rows enter as zeros and get their vectors in the graph.
        """
        ids, positions = entry.ids[done:stop], entry.positions[:, done:stop]
        rows, length = len(ids) + glimpse_rows, self._manifest.glimpse.length
        words = np.zeros((1, rows, self._manifest.text.hidden_size), np.float32)
        # Visual tokens take the place of the image token's embedding, which there may be none of.
        words[0, : len(ids)] = self._embedding.rows(np.where(ids == self._manifest.tokens.image, 0, ids))
        hidden = self._backend.rows(self._hidden_in, done, done + rows)
        self._backend.copy(words, hidden)
        if not done:
            self._place_images(entry, images)
        gate = np.zeros((1, rows, length), np.float32)
        if glimpse_rows:
            gate[0, len(ids) :] = np.eye(length, dtype=np.float32)
            # The reference gives glimpse rows the last row's position on the last axis + 1, + 2, ... on all axes.
            glimpse_positions = positions[-1, -1] + 1 + np.arange(length)
            positions = np.concatenate([positions, np.tile(glimpse_positions, (len(positions), 1))], axis=1)
            self._emit("glimpse_position_ids", positions[:, len(ids) :])
        target = self._backend.rows(self._hidden, done, done + rows)
        batch = RowBatch(hidden, positions, gate, target, max(glimpse_rows, 1))
        out = self._run_rows(self._engine, self._cache, batch, interrupt)
        emit_trace(out, self._emit)
        return out["glimpse_attention"]

    def _place_images(self, entry: Entry, images: Sequence[VisualTokens]) -> None:
        """Writes the visual tokens that enter over the rows of their ids, a run of them at a time."""
        taken = 0
        for image, cells in zip(images, entry.cells(), strict=True):
            rows = entry.visual_rows[taken : taken + len(cells)]
            taken += len(cells)
            breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(cells) != 1)) + 1
            for first, last in itertools.pairwise([0, *breaks, len(cells)] if len(cells) else []):
                target = self._backend.rows(self._hidden_in, int(rows[first]), int(rows[last - 1]) + 1)
                self._backend.copy(
                    self._backend.rows(image.embeds, int(cells[first]), int(cells[last - 1]) + 1), target
                )
