"""The stages in order: vision, lower layers, scorer, selection, compaction, upper layers, decode steps."""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.checks import STAGES, UPDATE_STAGE
from glimpse_runtime.devices import DEFAULT_DEVICE
from glimpse_runtime.errors import BackendError, BundleFormatError, InputError, PromptError, PruningError
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.grid import Patches
from glimpse_runtime.inputs.prompt import Prompt, place
from glimpse_runtime.inputs.rope import TextRope
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport, report_unpruned, with_encoded
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.cache import KVCache
from glimpse_runtime.steps.decode import Stepper
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.finite import require_finite
from glimpse_runtime.steps.lower import LowerLayers
from glimpse_runtime.steps.prefix import Prefix
from glimpse_runtime.steps.rows import RowBatch, RowRunner
from glimpse_runtime.steps.score import Scorer
from glimpse_runtime.steps.select import Selector
from glimpse_runtime.steps.update import Seen, UpdateEngine, Updater
from glimpse_runtime.steps.vision import VisionEncoder, VisualTokens, emit_trace

Trace = Callable[[str, Array], None]


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
        self.family = open_family(manifest)
        embedding = bundle.embedding()
        rope = TextRope(text.head_dim, text.rope_theta, text.rope_sections)
        self._capacity = manifest.profiles["context"].max

        stages = manifest.stages_of(manifest.choose_dialect(backend.dialects))
        self._lower_cache = KVCache(backend, stages["lower"].inputs, self._capacity)
        self._upper_cache = KVCache(backend, stages["upper"].inputs, self._capacity)

        states = {"lower": self._lower_cache.state, "upper": self._upper_cache.state}

        def load(name: str) -> Engine:
            return backend.load(bundle, name, stages[name], states.get(name, {}))

        # Side by side: engines prepare weights on one core each.
        with ThreadPoolExecutor(len(STAGES)) as pool:
            engines = dict(zip(STAGES, pool.map(load, STAGES), strict=True))
        self._load, self._engines = load, engines
        self._update_stage = stages.get(UPDATE_STAGE)
        self._updater: Updater | None = None
        emit, require_finite = _weakly(self._emit), _weakly(self._require_finite)
        self._rows = RowRunner(backend, rope)
        self._encoder = VisionEncoder(manifest, self.family, backend, engines["vision"], emit)
        self._lower = LowerLayers(manifest, backend, embedding, self._rows, engines["lower"], self._lower_cache, emit)
        scorer = Scorer(manifest, self.family, backend, engines["score"], emit)
        self._selector = Selector(bundle, backend, scorer, embedding, require_finite)
        self._step = Stepper(
            manifest,
            backend,
            embedding,
            rope,
            (engines["lower"], engines["upper"]),
            (self._lower_cache, self._upper_cache),
        )
        self._next_position = np.zeros(len(text.rope_sections), np.int64)
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
        for engine in self._engines.values():
            engine.close()
        self._backend.close()

    def warm_up(self, largest: bool) -> None:
        """Runs every graph once, so that the first request finds memory touched.

        Args:
            largest: run at the profile's maximum instead of the smallest size: the engine then holds all the memory
                it will ever need. A context too short for the image and one token of text is left cold.
        """
        room = self._capacity - self.manifest.glimpse.length - 1
        if room < 2:
            return
        token = self.manifest.tokens.image
        tokens = min(self.manifest.profiles["visual_tokens"].max, room - 1) if largest else 1
        image = self.family.blank(tokens)
        grid = image.grid
        if grid.visual_tokens >= room:
            return
        trace, self.trace, self._warming = self.trace, None, True
        text = max(room - grid.visual_tokens, 1) if largest else 1
        ids = np.concatenate([np.full(grid.visual_tokens, token), np.full(text, 0 if token else 1)])
        stats, interrupt = Stats(), Interrupt()
        keep_all = Pruning(threshold=0.0, max_keep_ratio=1.0, min_keep=0, anchors=())
        visual = [self.encode(image, stats, interrupt)]
        entry = Entry.of(place(ids, (grid,), token, self.family), token)
        self.prefill(entry, visual, None, keep_all, stats, interrupt)
        self.decode(int(ids[-1]), stats, interrupt)
        self._lower_cache.length = self._upper_cache.length = 0
        self.trace, self._warming = trace, False

    def check(self, prompt: Prompt, pruning: Pruning, answer: int = 1) -> None:
        """Refuses a request that cannot be run, before any compute.

        Args:
            prompt: the tokenised prompt.
            pruning: the pruning options.
            answer: tokens that there must be room for.

        Raises:
            PromptError: the prompt or an image does not fit the bundle's profiles.
            PruningError: the pruning options cannot be met.
        """
        if pruning.zoom is not None and not self.family.encodes_parts:
            raise PruningError(
                f"zoom encodes a part of an image, which the vision encoder of {self.manifest.model.architecture} "
                "cannot; leave out zoom"
            )
        largest = self.manifest.profiles["visual_tokens"].max
        for grid in prompt.grids:
            if grid.visual_tokens > largest:
                raise PromptError(
                    f"an image needs {grid.visual_tokens} visual tokens, the bundle allows {largest}; "
                    "use fewer pixels (max_pixels=, --max-pixels) or export with a larger --max-visual-tokens"
                )
        visual = sum(grid.visual_tokens for grid in prompt.grids)
        text = len(prompt.ids) - visual
        entering = self._selector.check(prompt, pruning)
        rows = text + entering + self._selector.glimpse_rows(prompt, pruning) + answer
        if rows > self._capacity:
            raise PromptError(
                f"the prompt and the start of an answer need {rows} rows of context, the bundle has {self._capacity}; "
                "shorten the text, use fewer pixels (max_pixels=, --max-pixels) or export with a larger --max-context"
            )

    def encode(
        self,
        image: Patches,
        stats: Stats,
        interrupt: Interrupt,
        cells: IntArray | None = None,
        stage: str = "vision",
    ) -> VisualTokens:
        """Runs the vision encoder on one image, or on some cells of it; see ``VisionEncoder``."""
        with stats.stage(stage):
            tokens = self._encoder(image, interrupt, cells)
            self._require_finite("vision", tokens.embeds, tokens.features)
            return tokens

    def open_updates(self) -> None:
        """Has the graph that updates take the place of the vision graph, so that weights are in memory once.

        Raises:
            InputError: the model cannot encode a part of an image.
            BackendError: the device does not update, or the graph cannot be loaded.
            BundleFormatError: the bundle has no such graph.
        """
        if self._updater is not None:
            return
        architecture, device = self.manifest.model.architecture, self._backend.name
        if not self.family.encodes_parts:
            raise InputError(
                f"a stream encodes the changed parts of a frame, which the vision encoder of {architecture} cannot; "
                "use encode or ask for every frame"
            )
        if device != DEFAULT_DEVICE:
            raise BackendError(
                f"a stream runs on the device {DEFAULT_DEVICE}, not on {device}; load the bundle with "
                f"device={DEFAULT_DEVICE!r}, or use encode or ask for every frame"
            )
        if self._update_stage is None:
            raise BundleFormatError(
                f"this bundle has no stage {UPDATE_STAGE}, which streams need; export the model again with this "
                "version: glimpse-export --model MODEL --out BUNDLE --force"
            )
        self._engines.pop("vision").close()
        try:
            engine = UpdateEngine(self._load(UPDATE_STAGE), self._update_stage)
        except BaseException:
            self._engines["vision"] = self._encoder.engine = self._load("vision")
            raise
        self._engines["vision"] = self._encoder.engine = engine
        self._selector.without_received()
        self._updater = Updater(self.manifest, self.family, engine)

    def update(self, frame: Patches, seen: Seen | None, refresh: int, stats: Stats, interrupt: Interrupt) -> Seen:
        """Encodes what changed in a stream's frame, after ``open_updates``; see ``Updater``."""
        assert self._updater is not None, "a stream opens it"
        with stats.stage("vision"):
            now = self._updater(frame, seen, refresh, interrupt)
            self._require_finite("vision", now.tokens.embeds, now.tokens.features)
        self._emit("image_embeds", now.tokens.embeds)
        self._emit("visual_features", now.tokens.features)
        return now

    def enter(
        self, prompt: Prompt, images: Sequence[VisualTokens], pruning: Pruning, stats: Stats, interrupt: Interrupt
    ) -> Entry:
        """Chooses which visual tokens of a prompt enter layer 0: all, without a method that acts there."""
        return self._selector.enter(prompt, images, pruning, stats, interrupt)

    def prefix(self, entry: Entry, images: Sequence[VisualTokens], stats: Stats, interrupt: Interrupt) -> Prefix:
        """Runs an entry up to its last visual token through the lower layers, for questions to start from."""
        with stats.stage("lower"):
            return self._lower.prefix(entry, images, interrupt)

    def scout(self, entry: Entry, images: Sequence[VisualTokens], stats: Stats, interrupt: Interrupt) -> FloatArray:
        """Returns the scorer's (entered,) logits of a prompt about a small copy of its image; see ``Pruning.zoom``.

        The lower layers' KV cache holds that prompt until the next one runs.
        """
        with stats.stage("scout_lower"):
            glimpse_rows = self._selector.glimpse_rows(entry.prompt, Pruning())
            _, attention = self._lower(entry, images, None, glimpse_rows, interrupt)
        with stats.stage("scout_score"):
            self._require_finite("lower", attention)
            return self._selector.glimpse_logits(entry, images, attention, interrupt)

    def prefill(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        prefix: Prefix | None,
        pruning: Pruning,
        stats: Stats,
        interrupt: Interrupt,
    ) -> tuple[FloatArray, PruneReport]:
        """Runs the prompt and prunes it at the split.

        Args:
            entry: the prompt as it enters layer 0.
            images: its encoded images in order.
            prefix: the entry's start if it was run before; None runs all of it.
            pruning: the pruning options.
            stats: gets the stage times.
            interrupt: ends the request early.

        Returns:
            (vocab,) float32 logits of the first new token, and what pruning did.
        """
        ids, positions, backend = entry.ids, entry.positions, self._backend
        with stats.stage("lower"):
            glimpse_rows = self._selector.glimpse_rows(entry.prompt, pruning)
            hidden, attention = self._lower(entry, images, prefix, glimpse_rows, interrupt)
        self._emit("position_ids", positions)
        if self.trace is not None:
            self.trace("hidden_reduce", backend.download(hidden)[0].copy())
        if not (pruning.enabled and entry.grids):
            self._next_position[:] = positions.max() + 1
            reason = "pruning was switched off" if entry.grids else "the prompt has no image"
            report = report_unpruned(entry.grids, reason, entry.entered)
            keep_rows = np.arange(len(ids))
        else:
            if self.trace is not None and pruning.keep_masks is None:
                self.trace("attn_logits", backend.download(attention)[:, entry.visual_rows].T)
            keep, report = self._selector.decide(entry, images, hidden, attention, pruning, stats, interrupt)
            keep_rows = entry.keep_rows(keep)
            self._emit("keep_mask", keep)
            with stats.stage("compact"):
                self._lower_cache.compact(hidden, keep_rows)
            self._next_position[:] = positions[:, keep_rows[-1]] + 1
        self._emit("keep_rows", keep_rows)
        with stats.stage("upper"):
            self._upper_cache.length = 0
            kept = RowBatch(backend.rows(hidden, 0, len(keep_rows)), positions[:, keep_rows])
            out = self._rows(self._engines["upper"], self._upper_cache, kept, interrupt)
            first: FloatArray = backend.download(out["logits"]).reshape(-1)
        emit_trace(out, self._emit)
        require_finite("upper", self.manifest.precision, first)
        self._emit("logits_step", first[None])
        self._emit_caches()
        return first, with_encoded(report, [image.encoded for image in images])

    def decode(self, token: int, stats: Stats, interrupt: Interrupt) -> FloatArray:
        """Feeds one token back and returns the (vocab,) float32 logits of the next, valid until the next step."""
        self._emit("decode_position", self._next_position)
        self._emit("decode_past_len", np.array(self._lower_cache.length))
        with stats.stage("decode"):
            logits = self._step(token, self._next_position, interrupt)
            require_finite("upper", self.manifest.precision, logits)
        self._next_position += 1
        stats.decode_steps += 1
        self._emit("logits_step", logits[None])
        return logits

    def rewind(self, tokens: int) -> None:
        """Takes back so many tokens that were decoded last."""
        for cache in (self._lower_cache, self._upper_cache):
            cache.length -= tokens
        self._next_position -= tokens

    def _require_finite(self, stage: str, *tensors: Tensor) -> None:
        """Checks a stage's outputs: always on the host; on a device, where looking costs time, while warming up."""
        if self._backend.on_host or self._warming:
            require_finite(stage, self.manifest.precision, *(self._backend.download(tensor) for tensor in tensors))

    def _emit(self, name: str, value: Tensor) -> None:
        if self.trace is not None:
            self.trace(name, value if isinstance(value, np.ndarray) else self._backend.download(value))

    def _emit_caches(self) -> None:
        if self.trace is not None:
            for cache in (self._lower_cache, self._upper_cache):
                for name, buffer in cache.state.items():
                    rows = self._backend.download(buffer)[0, :, : cache.length, : self.manifest.text.head_dim]
                    self.trace(f"cache.{name}", rows)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Returns a method for the pipeline's own parts: with it they do not keep the graphs of a dropped one loaded."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: object) -> None:
        found = reference()
        if found is not None:
            found(*arguments)

    return call
