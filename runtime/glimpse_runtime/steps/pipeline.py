"""The stages in order: vision, lower layers, scorer, selection, compaction, upper layers, decode steps."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.checks import STAGES
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.positions import TextRope
from glimpse_runtime.inputs.preprocess import Grid, Patches
from glimpse_runtime.inputs.prompt import Prompt, place
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport, report_unpruned
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.cache import KVCache
from glimpse_runtime.steps.decode import Stepper
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.finite import require_finite
from glimpse_runtime.steps.prefix import Prefix
from glimpse_runtime.steps.select import Selector
from glimpse_runtime.steps.visual import Visual, VisualTokens, emit_trace

Trace = Callable[[str, Array], None]

# Prefill runs so many rows at a time at most: what attention and MLP need in between grows with it, speed does not.
ROWS_AT_ONCE = 512


class Pipeline:
    """Runs the graphs of one bundle, one request at a time."""

    def __init__(self, bundle: Bundle, backend: Backend, trace: Trace | None = None) -> None:
        """Loads the graphs and allocates the KV cache.

        Args:
            bundle: the checked bundle.
            backend: where to run.
            trace: called with the name and value of intermediate arrays; a bundle exported with trace outputs
                gives those of the graphs as well.
        """
        manifest = bundle.manifest
        text = manifest.text
        self.manifest = manifest
        self.trace = trace
        self._backend = backend
        self._embedding = bundle.embedding()
        self._rope = TextRope(text.head_dim, text.rope_theta, text.mrope_section)
        self._capacity = manifest.profiles["context"].max

        stages = manifest.stages_of(manifest.choose_dialect(backend.dialects))
        self._lower_cache = KVCache(backend, stages["lower"].inputs, self._capacity)
        self._upper_cache = KVCache(backend, stages["upper"].inputs, self._capacity)
        # Hidden states before the first layer and behind layer K; memory of the host is taken as it is touched.
        hidden = (1, self._capacity, text.hidden_size)
        self._hidden_in, self._hidden = backend.allocate(hidden, "float32"), backend.allocate(hidden, "float32")

        states = {"lower": self._lower_cache.state, "upper": self._upper_cache.state}

        def load(name: str) -> Engine:
            return backend.load(bundle, name, stages[name], states.get(name, {}))

        # Side by side: engines prepare weights on one core each.
        with ThreadPoolExecutor(len(STAGES)) as pool:
            engines = dict(zip(STAGES, pool.map(load, STAGES), strict=True))
        self._lower, self._upper = engines["lower"], engines["upper"]
        self._visual = Visual(manifest, backend, engines["vision"], engines["score"], self._emit)
        self._selector = Selector(bundle, backend, self._visual, self._embedding, self._require_finite)
        self._step = Stepper(
            manifest,
            backend,
            self._embedding,
            self._rope,
            (self._lower, self._upper),
            (self._lower_cache, self._upper_cache),
        )
        self._next_position = np.zeros(3, np.int64)
        self._warming = False

    @property
    def room(self) -> int:
        """Rows the KV cache still has."""
        return self._capacity - self._lower_cache.length

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV caches."""
        return self._lower_cache.nbytes + self._upper_cache.nbytes

    @property
    def device_memory(self) -> dict[str, int]:
        """Bytes by purpose where a device makes them differ; see ``Backend.memory``."""
        return self._backend.memory()

    def prefix_bytes(self, tokens: int) -> int:
        """Bytes that a ``Prefix`` of so many tokens holds."""
        row_bytes = self._lower_cache.nbytes // self._capacity + 4 * self.manifest.text.hidden_size + 4 * 8
        return tokens * row_bytes

    def close(self) -> None:
        """Frees the graphs."""
        for part in (self._visual, self._lower, self._upper, self._backend):
            part.close()

    def warm_up(self, largest: bool) -> None:
        """Runs every graph once, so that the first request finds memory touched.

        Args:
            largest: run at the profile's maximum instead of the smallest size: the engine then holds all the memory
                it will ever need. A context too short for one visual token and one of text is left cold.
        """
        room = self._capacity - self.manifest.glimpse.length - 1
        if room < 2:
            return
        trace, self.trace, self._warming = self.trace, None, True
        merge, token = self.manifest.images.merge_size, self.manifest.tokens.image
        vision = self.manifest.vision
        tokens = min(self.manifest.profiles["visual_tokens"].max, room - 1) if largest else 1
        side = math.isqrt(tokens)
        grid = Grid(side * merge, tokens // side * merge, merge)
        width = 3 * vision.temporal_patch_size * vision.patch_size**2
        image = Patches(np.zeros((grid.patches, width), np.float32), grid, (1, 1))
        text = room - grid.visual_tokens if largest else 1
        ids = np.concatenate([np.full(grid.visual_tokens, token), np.full(text, 0 if token else 1)])
        stats, interrupt = Stats(), Interrupt()
        keep_all = Pruning(threshold=0.0, max_keep_ratio=1.0, min_keep=0, anchors=())
        visual = [self.encode(image, stats, interrupt)]
        entry = Entry.of(place(ids, (grid,), token), token)
        self.prefill(entry, visual, None, keep_all, stats, interrupt)
        self.decode(int(ids[-1]), stats, interrupt)
        self._lower_cache.length = self._upper_cache.length = 0
        self.trace, self._warming = trace, False

    def check(self, prompt: Prompt, request: Pruning) -> None:
        """Refuses a request that cannot be run, before any compute.

        Raises:
            PromptError: the prompt or an image does not fit the bundle's profiles.
            PruningError: the pruning options cannot be met.
        """
        largest = self.manifest.profiles["visual_tokens"].max
        for grid in prompt.grids:
            if grid.visual_tokens > largest:
                raise PromptError(
                    f"an image needs {grid.visual_tokens} visual tokens, the bundle allows {largest}; "
                    "use fewer pixels (max_pixels=, --max-pixels) or export with a larger --max-visual-tokens"
                )
        visual = sum(grid.visual_tokens for grid in prompt.grids)
        text = len(prompt.ids) - visual
        entering = self._selector.check(prompt, request)
        rows = text + entering + self._selector.glimpse_rows(prompt, request) + 1
        if rows > self._capacity:
            raise PromptError(
                f"the prompt and a first token need {rows} rows of context, the bundle has {self._capacity}; "
                "shorten the text, use fewer pixels (max_pixels=, --max-pixels) or export with a larger --max-context"
            )

    def encode(self, image: Patches, stats: Stats, interrupt: Interrupt) -> VisualTokens:
        """Runs the vision encoder on one image."""
        with stats.stage("vision"):
            tokens = self._visual.encode(image, interrupt)
            self._require_finite("vision", tokens.embeds, tokens.features)
            return tokens

    def enter(
        self, prompt: Prompt, images: Sequence[VisualTokens], request: Pruning, stats: Stats, interrupt: Interrupt
    ) -> Entry:
        """Chooses which visual tokens of a prompt enter layer 0: all, without a method that acts there."""
        return self._selector.enter(prompt, images, request, stats, interrupt)

    def prefix(self, entry: Entry, images: Sequence[VisualTokens], stats: Stats, interrupt: Interrupt) -> Prefix:
        """Runs an entry up to its last visual token through the lower layers, for questions to start from."""
        count = int(entry.visual_rows[-1]) + 1
        self._lower_cache.length = 0
        with stats.stage("lower"):
            self._run_lower(entry, 0, count, images, 0, interrupt)
            hidden = self._backend.allocate((1, count, self.manifest.text.hidden_size), "float32")
            self._backend.copy(self._backend.rows(self._hidden, 0, count), hidden)
            ids, positions = entry.ids[:count].copy(), entry.positions[:, :count].copy()
            return Prefix(ids, positions, hidden, self._lower_cache.save())

    def prefill(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        prefix: Prefix | None,
        request: Pruning,
        stats: Stats,
        interrupt: Interrupt,
    ) -> tuple[FloatArray, PruneReport]:
        """Runs the prompt and prunes it at the split.

        Args:
            entry: the prompt as it enters layer 0.
            images: its encoded images in order.
            prefix: the entry's start if it was run before; None runs all of it.
            request: the pruning options.
            stats: gets the stage times.
            interrupt: ends the request early.

        Returns:
            (vocab,) float32 logits of the first new token, and what pruning did.
        """
        ids, positions, backend = entry.ids, entry.positions, self._backend
        with stats.stage("lower"):
            attention = self._run_entry(entry, images, prefix, request, interrupt)
        hidden = backend.rows(self._hidden, 0, len(ids))
        self._emit("position_ids", positions)
        if self.trace is not None:
            self.trace("hidden_reduce", backend.download(hidden)[0].copy())
        if not (request.enabled and entry.grids):
            self._next_position[:] = positions.max() + 1
            report = report_unpruned(
                entry.grids, "pruning was switched off" if entry.grids else "the prompt has no image"
            )
            keep_rows = np.arange(len(ids))
        else:
            if self.trace is not None and request.keep_masks is None:
                self.trace("attn_logits", backend.download(attention)[:, entry.visual_rows].T)
            keep, report = self._selector.decide(entry, images, hidden, attention, request, stats, interrupt)
            keep_rows = entry.keep_rows(keep)
            self._emit("keep_mask", keep)
            with stats.stage("compact"):
                self._lower_cache.compact(hidden, keep_rows)
            self._next_position[:] = positions[:, keep_rows[-1]] + 1
        self._emit("keep_rows", keep_rows)
        with stats.stage("upper"):
            self._upper_cache.length = 0
            kept = Rows(backend.rows(hidden, 0, len(keep_rows)), positions[:, keep_rows])
            out = self._run_rows(self._upper, self._upper_cache, kept, interrupt)
            first: FloatArray = backend.download(out["logits"]).reshape(-1)
        self._emit_trace(out)
        require_finite("upper", self.manifest.precision, first)
        self._emit("logits_step", first[None])
        self._emit_caches()
        return first, report

    def decode(self, token: int, stats: Stats, interrupt: Interrupt) -> FloatArray:
        """Feeds one token back and returns the (vocab,) float32 logits of the next, valid until the next step."""
        self._emit("decode_position", self._next_position)
        self._emit("decode_past_len", np.array(self._lower_cache.length))
        with stats.stage("decode"):
            logits = self._step(token, self._next_position, interrupt)
            require_finite("upper", self.manifest.precision, logits)
        self._next_position += 1
        self._emit("logits_step", logits[None])
        return logits

    def _run_entry(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        prefix: Prefix | None,
        request: Pruning,
        interrupt: Interrupt,
    ) -> Tensor:
        """Runs what is not in the prefix through the lower layers; returns the last row's attention."""
        glimpse_rows = self._selector.glimpse_rows(entry.prompt, request)
        self._lower_cache.length = 0
        done = 0
        if prefix is not None:
            done = len(prefix.ids)
            self._lower_cache.restore(prefix.cache)
            self._backend.copy(prefix.hidden, self._backend.rows(self._hidden, 0, done))
        attention = self._run_lower(entry, done, len(entry.ids), images, glimpse_rows, interrupt)
        self._lower_cache.length = len(entry.ids)  # the glimpse rows are dropped
        return attention

    def _run_lower(
        self,
        entry: Entry,
        done: int,
        stop: int,
        images: Sequence[VisualTokens],
        glimpse_rows: int,
        interrupt: Interrupt,
    ) -> Tensor:
        """Runs rows ``done`` to ``stop`` through the lower layers, and returns the last row's attention.

        The hidden states stay in ``_hidden``. Glimpse rows enter as zeros and get their vectors in the graph.
        """
        ids, positions = entry.ids[done:stop], entry.positions[:, done:stop]
        rows, length = len(ids) + glimpse_rows, self.manifest.glimpse.length
        words = np.zeros((1, rows, self.manifest.text.hidden_size), np.float32)
        words[0, : len(ids)] = self._embedding.rows(ids)
        hidden = self._backend.rows(self._hidden_in, done, done + rows)
        self._backend.copy(words, hidden)
        if not done:
            self._place_images(entry, images)
        gate = np.zeros((1, rows, length), np.float32)
        if glimpse_rows:
            gate[0, len(ids) :] = np.eye(length, dtype=np.float32)
            # The reference gives glimpse rows the last prompt row's width position + 1, + 2, ... on all axes.
            glimpse_positions = positions[-1, -1] + 1 + np.arange(length)
            positions = np.concatenate([positions, np.tile(glimpse_positions, (3, 1))], axis=1)
            self._emit("glimpse_position_ids", positions[:, len(ids) :])
        target = self._backend.rows(self._hidden, done, done + rows)
        work = Rows(hidden, positions, gate, target, max(glimpse_rows, 1))
        out = self._run_rows(self._lower, self._lower_cache, work, interrupt)
        self._emit_trace(out)
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

    def _run_rows(self, engine: Engine, cache: KVCache, work: "Rows", interrupt: Interrupt) -> dict[str, Tensor]:
        """Runs rows behind those in the cache, a run of them after the other, and returns the last one's outputs."""
        out: dict[str, Tensor] = {}
        for start, stop in runs_of_rows(work.positions.shape[1], work.together):
            inputs: dict[str, Tensor] = {"hidden_in": self._backend.rows(work.hidden, start, stop)}
            if work.gate is not None:
                inputs["glimpse_gate"] = work.gate[:, start:stop]
            target = None if work.target is None else {"hidden_out": self._backend.rows(work.target, start, stop)}
            out = engine.run({**inputs, **self._step_inputs(work.positions[:, start:stop], cache)}, interrupt, target)
            cache.length += stop - start
        return out

    def _step_inputs(self, positions: IntArray, cache: KVCache) -> dict[str, Tensor]:
        cos, sin = self._rope(positions)
        total = cache.length + positions.shape[1]
        return {
            "cos": cos,
            "sin": sin,
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "slots": np.arange(cache.length, total),
        }

    def _require_finite(self, stage: str, *tensors: Tensor) -> None:
        """Checks a stage's outputs: always on the host; on a device, where looking costs time, while warming up."""
        if self._backend.on_host or self._warming:
            require_finite(stage, self.manifest.precision, *(self._backend.download(tensor) for tensor in tensors))

    def _emit(self, name: str, value: Tensor) -> None:
        if self.trace is not None:
            self.trace(name, value if isinstance(value, np.ndarray) else self._backend.download(value))

    def _emit_trace(self, outputs: Mapping[str, Tensor]) -> None:
        emit_trace(outputs, self._emit)

    def _emit_caches(self) -> None:
        if self.trace is not None:
            for cache in (self._lower_cache, self._upper_cache):
                for name, buffer in cache.state.items():
                    rows = self._backend.download(buffer)[0, :, : cache.length, : self.manifest.text.head_dim]
                    self.trace(f"cache.{name}", rows)


@dataclass(frozen=True)
class Rows:
    """Rows of a prompt that go through one decoder graph.

    Attributes:
        hidden: (1, rows, hidden) float32 of the backend.
        positions: (3, rows).
        gate: (1, rows, glimpse length) which glimpse vector a row gets; None for a graph without a gate.
        target: (1, rows, hidden) where the graph's ``hidden_out`` goes; None for a graph without it.
        together: rows at the end that must not be parted.
    """

    hidden: Tensor
    positions: IntArray
    gate: FloatArray | None = None
    target: Tensor | None = None
    together: int = 1


def runs_of_rows(rows: int, together: int) -> list[tuple[int, int]]:
    """Returns starts and stops of runs of about equal length, the last ``together`` rows in one run."""
    count = -(-rows // ROWS_AT_ONCE)
    starts = [min(rows * index // count, max(rows - together, 0)) for index in range(count)]
    stops = [*starts[1:], rows]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
