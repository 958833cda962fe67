"""A loaded bundle: ask many questions."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.memory import memory_of_files
from glimpse_runtime.errors import InputError, PromptError, SessionError
from glimpse_runtime.inputs.cells import Cells, checked_cells
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.prompt import Prompt, build_prompt, checked_ids, place
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.interrupt import Interrupted
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport, report_unpruned
from glimpse_runtime.session import fork
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.session.budget import Planner, needs_calibration
from glimpse_runtime.session.costs import Costs
from glimpse_runtime.session.request import (
    DEFAULT_MAX_NEW_TOKENS,
    Images,
    Request,
    make_request,
)
from glimpse_runtime.session.sampling import Sampler, Sampling
from glimpse_runtime.session.scene import Scene
from glimpse_runtime.session.scene_cache import SceneCache, SceneState, content_key
from glimpse_runtime.session.seeing import encode_into, read
from glimpse_runtime.session.turns import Turns
from glimpse_runtime.session.zoom import look
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.prefix import Prefix


class Session:
    """A loaded bundle. Not re-entrant: one request at a time; use one session per thread."""

    def __init__(
        self, bundle: Bundle, pipeline: Pipeline, max_pixels: int | None = None, scene_cache_bytes: int = 0
    ) -> None:
        """Wraps a pipeline; use ``load``."""
        manifest = bundle.manifest
        self.bundle = bundle
        self._pipeline: Pipeline | None = pipeline
        self._tokenizer = Tokenizer(bundle.path("tokenizer.json")) if manifest.prompt else None
        self._turns = Turns()
        self._scenes = SceneCache(scene_cache_bytes)
        self._forked = False
        self.costs: Costs | None = None
        fork.watch(self)
        self._family = pipeline.family if max_pixels is None else pipeline.family.limited(max_pixels)

    def ask(
        self,
        images: Images,
        question: str,
        *,
        pruning: Pruning | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        timeout: float | None = None,
        system: str | None = None,
        encoding: str | None = None,
        max_visual_tokens: int | None = None,
        budget_ms: float | None = None,
    ) -> Answer:
        """Asks a question about zero or more images.

        Everything is checked before anything is computed. The call returns when the first token is known; the
        rest is decoded while the answer is iterated. An earlier answer that nobody has begun to read is completed
        first, within this request's deadline; one that was begun and left is cancelled; one that was dropped is
        gone.

        Args:
            images: an image (path, bytes, PIL image, (height, width[, channels]) uint8 array, ``Frame``), or a list of
                them, an empty one for text alone. None is refused: it is what a camera read that failed gives.
            question: the user's text.
            pruning: pruning options; None is the bundle's defaults.
            sampling: how tokens are chosen and what stops an answer; None is greedy.
            max_new_tokens: longest answer.
            timeout: seconds from this call until the answer ends with what it has, reason ``deadline``.
            system: system message; None is the model's own.
            encoding: channel order of image arrays, such as ``bgr8``; None is ``rgb8``.
            max_visual_tokens: each image is made smaller until it has at most so many; None is no limit but the
                session's.
            budget_ms: milliseconds from the call until the first token; how the images are seen and pruned is chosen
                by the measured costs of this machine (``load(calibrate=True)``), as far as the options leave it open.

        Raises:
            InputError: an image, the question or an option cannot be used, or the budget cannot be met.
            SessionError: the session is closed or busy.
        """
        request = make_request(pruning, sampling, max_new_tokens, timeout, None, max_visual_tokens, budget_ms)
        self._turns.begin(request.interrupt)
        if request.budget_ms is not None and self.costs is None:
            raise needs_calibration()

        def prepare() -> tuple[Prompt, SceneState, list[Image.Image]]:
            scene, pictures = read(images, encoding, request.seen_by(self._family))
            prompt = self._build_prompt(question, scene.grids, system, ())
            if request.budget_ms is None or self.costs is None:
                return prompt, scene, pictures
            text = len(prompt.ids) - sum(grid.visual_tokens for grid in scene.grids)
            Planner(self.costs, self._family, self.bundle.manifest).choose(request, pictures, text)
            scene.grids = tuple(map(request.seen_by(self._family).grid, pictures))
            return self._build_prompt(question, scene.grids, system, ()), scene, pictures

        return self._prepared(request, prepare)

    def ask_ids(
        self,
        images: Images,
        ids: Sequence[int] | IntArray,
        *,
        pruning: Pruning | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        timeout: float | None = None,
        eos: Sequence[int] | None = None,
    ) -> Answer:
        """Asks with a tokenised prompt that holds one image token per visual token; needs no tokenizer.

        Args:
            images: the images in prompt order.
            ids: (tokens,) the prompt.
            pruning: pruning options; None is the bundle's defaults.
            sampling: how tokens are chosen; None is greedy.
            max_new_tokens: longest answer.
            timeout: seconds until the answer ends with what it has.
            eos: ids that end the answer; None is the bundle's.

        Raises:
            InputError: an image, the prompt or an option cannot be used.
            SessionError: the session is closed or busy.
        """
        request, manifest = make_request(pruning, sampling, max_new_tokens, timeout, eos), self.bundle.manifest
        self._turns.begin(request.interrupt)
        image_token = manifest.tokens.image

        def prepare() -> tuple[Prompt, SceneState, list[Image.Image]]:
            checked = checked_ids(ids, manifest.text.vocab_size, image_token)
            scene, pictures = read(images, None, self._family)
            return place(checked, scene.grids, image_token, self._family), scene, pictures

        return self._prepared(request, prepare)

    def encode(
        self,
        images: Images,
        *,
        pruning: Pruning | None = None,
        encoding: str | None = None,
        timeout: float | None = None,
        cells: Cells = None,
        max_visual_tokens: int | None = None,
    ) -> Scene:
        """Runs everything about some images that does not depend on a question.

        Args:
            images: at least one image; see ``ask``.
            pruning: options of the questions that give none of their own; the scene is made for what enters layer 0
                by them, unless that depends on the question.
            encoding: channel order of image arrays.
            timeout: seconds it may take.
            cells: which cells of the merged grid to encode, one cell being one visual token; None is all. For one
                image ascending places or a bool mask (rows, columns) such as those of ``PruneReport``; for a list of
                images a list of these. The time follows their number; what is left out never enters the decoder.
            max_visual_tokens: see ``ask``; cells are those of the smaller image.

        Raises:
            InputError: an image or its cells cannot be used, there is no image, or the model's vision encoder takes
                whole images alone.
            SessionError: the session is closed or busy, or it was ended by its deadline or ``cancel``.
        """
        request = make_request(pruning or Pruning(enabled=False), None, 1, timeout, None, max_visual_tokens)
        stats, interrupt = request.stats, request.interrupt
        self._turns.begin(interrupt)
        pipeline = self._open_pipeline()
        try:
            scene, pictures = interrupt.run(lambda: read(images, encoding, request.seen_by(self._family)))
        except Interrupted:
            raise SessionError(f"the scene was not finished: {interrupt.reason}") from None
        if not pictures:
            raise InputError("a scene needs at least one image; ask([], question) asks without")
        chosen = checked_cells(cells, images, scene.grids, self._family)
        prompt = self._build_prompt("?", scene.grids, None, ())
        pipeline.check(prompt, request.pruning)
        self._turns.finish_left(interrupt)
        with self._turns.take(interrupt):
            try:
                encode_into(scene, pictures, pipeline, request.seen_by(self._family), request, chosen)
                if not request.pruning.enters_by_question:
                    entry = pipeline.enter(prompt, scene.visual, request.pruning, stats, interrupt)
                    self._prefix(scene, entry, request, always=True)
            except Interrupted:
                raise SessionError(f"the scene was not finished: {interrupt.reason}") from None
        return Scene(self._ask_scene, scene, pruning)

    def cancel(self) -> None:
        """Ends the request that is running, from any thread; its answer keeps the text it has."""
        self._turns.cancel()

    def memory_plan(self) -> dict[str, int]:
        """Returns bytes by purpose: KV caches, memory-mapped embedding table, weights, cached scenes now and at most.

        With a device there is also ``device_bytes``: all of its memory that is held beside the weights, KV caches
        included. Scenes made by ``encode`` are the caller's and come on top.
        """
        pipeline = self._open_pipeline()
        return {
            "kv_cache_bytes": pipeline.cache_bytes,
            **memory_of_files(self.bundle.manifest),
            **pipeline.device_memory,
            "scene_bytes": self._scenes.nbytes,
            "scene_limit_bytes": self._scenes.limit_bytes,
        }

    def close(self) -> None:
        """Ends what runs and frees the model and its scenes; the session cannot be used afterwards."""
        self.cancel()
        with self._turns.lock:
            self._scenes.clear()
            if self._pipeline is not None:
                self._pipeline.close()
                self._pipeline = None

    def __enter__(self) -> "Session":
        """Returns the session itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the session."""
        self.close()

    def _ask_scene(
        self, scene: SceneState, question: str, request: Request, system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Answer:
        self._turns.begin(request.interrupt)
        return self._prepared(request, lambda: (self._build_prompt(question, scene.grids, system, turns), scene, None))

    def _prepared(
        self,
        request: Request,
        prepare: Callable[[], tuple[Prompt, SceneState, Sequence[Image.Image] | None]],
    ) -> Answer:
        """Reads images and builds the prompt within the deadline, then answers.

        Args:
            request: the options.
            prepare: gives the prompt, its images, and their pixels where they are not encoded yet.
        """
        pipeline = self._open_pipeline()
        try:
            with request.stats.stage("preprocess"):
                prompt, scene, pictures = request.interrupt.run(prepare)
                pipeline.check(prompt, request.pruning)
        except Interrupted:
            report = report_unpruned((), "the request ended before its images were read")
            return self._finished(None, report, (), None, request)
        return self._answer(prompt, scene, pictures, request)

    def _answer(
        self, prompt: Prompt, scene: SceneState, pictures: Sequence[Image.Image] | None, request: Request
    ) -> Answer:
        """Prefills, chooses the first token, and leaves the rest to the answer's iterator.

        Args:
            prompt: the tokenised prompt.
            scene: its images.
            pictures: their pixels; None for an encoded scene, which keeps the prompt's start whatever it takes.
            request: the options.
        """
        pipeline, stats, interrupt = self._open_pipeline(), request.stats, request.interrupt
        self._turns.finish_left(interrupt)
        sampler = Sampler(request.sampling, prompt.ids, self.bundle.manifest.generation.repetition_penalty)
        report, family = (
            report_unpruned(prompt.grids, "the request ended before pruning"),
            request.seen_by(self._family),
        )
        first: int | None = None
        with self._turns.take(interrupt):
            try:
                key = content_key(pictures, prompt.grids) if pictures and self._scenes.limit_bytes else None
                known = self._scenes.get(key) if key else None
                zoom = look(pipeline, family, prompt, pictures if known is None else None, request)
                pruning = zoom.request.pruning
                if known is not None:
                    scene.visual, scene.prefix = known.visual, known.prefix
                elif pictures:
                    encode_into(scene, pictures, pipeline, family, request, zoom.cells)
                entry = pipeline.enter(prompt, scene.visual, pruning, stats, interrupt)
                prefix = None if zoom.cells else self._prefix(scene, entry, zoom.request, always=pictures is None)
                if key and not zoom.cells:  # a part of an image says little to another question
                    self._scenes.put(key, scene)
                logits, report = pipeline.prefill(entry, scene.visual, prefix, pruning, stats, interrupt)
                report = zoom.told(report)
                first = sampler.choose(logits)
            except Interrupted:
                pass  # the answer says so by its reason
        stats.prompt_tokens = len(prompt.ids)
        answer = self._finished(first, report, scene.sizes, scene.stamp, request, sampler)
        answer.budget = request.budget
        self._turns.leave(answer)
        return answer

    def _finished(
        self,
        first: int | None,
        report: PruneReport,
        sizes: tuple[tuple[int, int], ...],
        stamp: float | None,
        request: Request,
        sampler: Sampler | None = None,
    ) -> Answer:
        """Returns the answer that a first token begins; None is one that ended before it."""
        stats = request.stats
        stats.ttft_ms = (time.perf_counter() - request.start_s) * 1e3
        stats.visual_tokens, stats.kept_tokens = report.total, report.kept
        stop = frozenset(self.bundle.manifest.tokens.eos if request.eos is None else request.eos)
        return Answer(
            self._generate(first, sampler, stop, request),
            stop,
            self._tokenizer,
            dataclasses.replace(report, image_sizes=sizes, seen=tuple(map(self._family.seen, sizes))),
            stats,
            request.interrupt,
            request.sampling.stop,
            stamp,
        )

    def _generate(
        self, token: int | None, sampler: Sampler | None, stop: frozenset[int], request: Request
    ) -> Iterator[int]:
        """Yields tokens, the one that stops the answer included."""
        if token is None or sampler is None:
            return
        for count in range(1, request.max_new_tokens + 1):
            request.stats.new_tokens = count
            yield token
            pipeline = self._open_pipeline()
            if token in stop or count == request.max_new_tokens or pipeline.room == 0:
                return
            with self._turns.take(request.interrupt):
                try:
                    token = sampler.choose(pipeline.decode(token, request.stats, request.interrupt))
                except Interrupted:
                    return

    def _prefix(self, scene: SceneState, entry: Entry, request: Request, always: bool) -> Prefix | None:
        """Returns what is known of the entry's start; a start that other questions share is run and kept."""
        if scene.prefix is not None and scene.prefix.starts(entry):
            return scene.prefix
        if not entry.has_start or request.pruning.enters_by_question:
            return None
        pipeline = self._open_pipeline()
        needed_bytes = pipeline.prefix_bytes(len(entry.ids)) + sum(image.nbytes for image in scene.visual)
        if not always and needed_bytes > self._scenes.limit_bytes:
            return None
        scene.prefix = pipeline.prefix(entry, scene.visual, request.stats, request.interrupt)
        return scene.prefix

    def _build_prompt(
        self, question: str, grids: Sequence[Grid], system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Prompt:
        manifest = self.bundle.manifest
        if self._tokenizer is None or manifest.prompt is None:
            raise PromptError("this bundle has no tokenizer; use ask_ids with token ids")
        context = manifest.profiles["context"].max
        return build_prompt(
            self._tokenizer, manifest.prompt, manifest.tokens, self._family, question, grids, system, turns, context
        )

    def _leave_to_parent(self) -> object:
        """See ``glimpse_runtime.session.fork``."""
        left, self._pipeline, self._forked = (self._pipeline, self._scenes), None, True
        self._turns, self._scenes = Turns(), SceneCache(0)
        return left

    def _open_pipeline(self) -> Pipeline:
        if self._forked:
            raise fork.loaded_before()
        if self._pipeline is None:
            raise SessionError("this session is closed; load the bundle again")
        return self._pipeline
