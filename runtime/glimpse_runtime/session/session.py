"""A loaded bundle: ask many questions."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from glimpse_runtime import fork
from glimpse_runtime.arrays import IntArray
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.memory import memory_of_files
from glimpse_runtime.checked import whole
from glimpse_runtime.closing import Closing
from glimpse_runtime.errors import InputError, SessionError
from glimpse_runtime.inputs.cells import Cells, checked_cells
from glimpse_runtime.inputs.prompt import Prompt
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.interrupt import Interrupted
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport, report_unpruned
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.session.budget import as_it_fits
from glimpse_runtime.session.choices import Choice, ChoiceTree, reader
from glimpse_runtime.session.costs import Costs
from glimpse_runtime.session.encoding import Pictures, Plan, encode_into, keep_prefix
from glimpse_runtime.session.reading import Reading
from glimpse_runtime.session.request import DEFAULT_MAX_NEW_TOKENS, Images, Request, make_request
from glimpse_runtime.session.sampling import Sampler, Sampling
from glimpse_runtime.session.scene import Scene
from glimpse_runtime.session.scene_cache import SceneCache, SceneState, content_key
from glimpse_runtime.session.stream import DEFAULT_REFRESH, Stream
from glimpse_runtime.session.turns import CLOSED, Turns
from glimpse_runtime.session.zoom import look
from glimpse_runtime.steps.pipeline import Pipeline


class Session(Closing, fork.OfOneProcess):
    """A loaded bundle. Not re-entrant: one request at a time; use one session per thread."""

    def __init__(
        self, bundle: Bundle, pipeline: Pipeline, max_pixels: int | None = None, scene_cache_bytes: int = 0
    ) -> None:
        """Wraps a pipeline; use ``load``."""
        self.bundle = bundle
        self._pipeline: Pipeline | None = pipeline
        self._turns = Turns(self._free)
        self._scenes = SceneCache(scene_cache_bytes)
        self._forked = False
        self.costs: Costs | None = None
        fork.watch(self)
        tokenizer = Tokenizer(bundle.path("tokenizer.json")) if bundle.manifest.prompt else None
        family = pipeline.family if max_pixels is None else pipeline.family.limited(max_pixels)
        self._reading = Reading(bundle.manifest, tokenizer, family)

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
        choices: Sequence[str] | type[bool] | None = None,
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
            choices: texts of which the answer is one, or ``bool`` for yes or no: ``Answer.value`` is the chosen one,
                ``Answer.probabilities`` has all. Name them in the question too. ``max_new_tokens`` has no meaning then.
            max_visual_tokens: each image is made smaller until it has at most so many; None is no limit but the
                session's.
            budget_ms: milliseconds from the call until the first token; how the images are seen and pruned is chosen
                by the measured costs of this machine (``load(calibrate=True)``), as far as the options leave it open.

        Raises:
            InputError: an image, the question or an option cannot be used, or the budget cannot be met.
            SessionError: the session is closed or busy.
        """
        request = make_request(
            pruning, sampling, max_new_tokens, timeout, None, choices, False, max_visual_tokens, budget_ms
        )
        self._turns.begin(request.interrupt)

        def prepare() -> tuple[Prompt, SceneState, list[Image.Image]]:
            reading = self._reading.as_asked(request)
            scene, pictures = reading.scene(images, encoding)
            prompt = reading.prompt(question, scene.grids, system)
            if request.budget_ms is not None:
                reading = as_it_fits(request, self._reading, self.costs, prompt, pictures)
                scene.grids = tuple(map(reading.family.grid, pictures))
                prompt = reading.prompt(question, scene.grids, system)
            return prompt, scene, pictures

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
        request = make_request(pruning, sampling, max_new_tokens, timeout, eos)
        self._turns.begin(request.interrupt)

        def prepare() -> tuple[Prompt, SceneState, list[Image.Image]]:
            scene, pictures = self._reading.scene(images, None)
            return self._reading.prompt_of(ids, scene.grids), scene, pictures

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
        given = Pruning(enabled=False) if pruning is None else pruning
        request = make_request(given, None, 1, timeout, max_visual_tokens=max_visual_tokens)
        pipeline, family = self._open_pipeline(), self._reading.as_asked(request).family

        def plan(scene: SceneState) -> Callable[[Pictures], None]:
            chosen = checked_cells(cells, images, scene.grids, family)
            return lambda pictures: encode_into(scene, pictures, pipeline, family, request, chosen)

        return Scene(self._ask_scene, self._see(images, encoding, request, plan), pruning)

    def stream(self, refresh: int = DEFAULT_REFRESH, *, pruning: Pruning | None = None) -> Stream:
        """Opens a stream of a camera's frames, of which only what changed is encoded; see ``Stream``."""
        given = Pruning(enabled=False) if pruning is None else pruning
        request = make_request(given, None, 1, None, of_stream=True)
        refresh = whole("refresh", refresh, 1)
        pipeline = self._open_pipeline()
        with self._turns.take(request.interrupt):
            pipeline.open_updates()
        return Stream(self._see, self._ask_scene, pipeline, self._reading.family, refresh, pruning)

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
        """Ends what runs and frees the model and its scenes; the session cannot be used afterwards.

        From within a request, by a signal or a logits processor, the model is freed when the request has ended.
        """
        self._turns.close()

    def _free(self) -> None:
        self._scenes.clear()
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _ask_scene(
        self, scene: SceneState, question: str, request: Request, system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Answer:
        self._turns.begin(request.interrupt)
        read = self._reading.prompt
        return self._prepared(request, lambda: (read(question, scene.grids, system, turns), scene, None))

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
                tree = request.interrupt.run(lambda: self._reading.choices(request))
                pipeline.check(prompt, request.pruning, tree.longest if tree else 1)
        except Interrupted:
            report = report_unpruned((), "the request ended before its images were read")
            return self._finished(None, report, (), None, request)
        return self._answer(prompt, scene, pictures, request, tree)

    def _answer(
        self,
        prompt: Prompt,
        scene: SceneState,
        pictures: Sequence[Image.Image] | None,
        request: Request,
        tree: ChoiceTree | None = None,
    ) -> Answer:
        """Prefills, chooses the first token, and leaves the rest to the answer's iterator.

        Args:
            prompt: the tokenised prompt.
            scene: its images.
            pictures: their pixels; None for an encoded scene, which keeps the prompt's start whatever it takes.
            request: the options.
            tree: what the answer is one of; None is any text.
        """
        pipeline, stats, interrupt = self._open_pipeline(), request.stats, request.interrupt
        self._turns.finish_left(interrupt)
        sampler = Sampler(request.sampling, prompt.ids, self.bundle.manifest.generation.repetition_penalty)
        report = report_unpruned(prompt.grids, "the request ended before pruning")
        family = self._reading.as_asked(request).family
        first: int | None = None
        choice: Choice | None = None
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
                limit_bytes = None if pictures is None else self._scenes.limit_bytes
                prefix = None if zoom.cells else keep_prefix(scene, entry, pipeline, zoom.request, limit_bytes)
                if key and not zoom.cells:  # a part of an image says little to another question
                    self._scenes.put(key, scene)
                logits, report = pipeline.prefill(entry, scene.visual, prefix, pruning, stats, interrupt)
                report = zoom.told(report)
                if tree is None:
                    first = sampler.choose(logits)
                else:
                    choice = tree.choose(logits, reader(pipeline, stats, interrupt))
            except Interrupted:
                pass  # the answer says so by its reason
        stats.prompt_tokens = len(prompt.ids)
        if choice is not None:
            stats.new_tokens = len(choice.tokens)
        answer = self._finished(first, report, scene.sizes, scene.stamp, request, sampler, choice)
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
        choice: Choice | None = None,
    ) -> Answer:
        """Returns the answer that a first token or a choice begins; without either it ended before it."""
        stats = request.stats
        stats.ttft_ms = (time.perf_counter() - request.start_s) * 1e3
        stats.visual_tokens, stats.kept_tokens = report.total, report.kept
        stop = frozenset(self.bundle.manifest.tokens.eos if request.eos is None else request.eos)
        return Answer(
            iter((*choice.tokens, min(stop))) if choice else self._generate(first, sampler, stop, request),
            stop,
            self._reading.tokenizer,
            dataclasses.replace(report, image_sizes=sizes, seen=tuple(map(self._reading.family.seen, sizes))),
            stats,
            request.interrupt,
            request.sampling.stop,
            stamp,
            choice,
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

    def _see(self, images: Images, encoding: str | None, request: Request, plan: Plan) -> SceneState:
        """Returns the state of a scene of images, which are encoded as ``plan`` says."""
        stats, interrupt = request.stats, request.interrupt
        self._turns.begin(interrupt)
        pipeline = self._open_pipeline()
        try:
            scene, pictures = interrupt.run(lambda: self._reading.as_asked(request).scene(images, encoding))
        except Interrupted:
            raise SessionError(f"the scene was not finished: {interrupt.reason}") from None
        if not pictures:
            raise InputError("a scene needs at least one image; ask([], question) asks without")
        encode = plan(scene)
        prompt = self._reading.prompt("?", scene.grids)
        pipeline.check(prompt, request.pruning)
        self._turns.finish_left(interrupt)
        with self._turns.take(interrupt):
            try:
                encode(pictures)
                if not request.pruning.enters_by_question:
                    entry = pipeline.enter(prompt, scene.visual, request.pruning, stats, interrupt)
                    keep_prefix(scene, entry, pipeline, request)
            except Interrupted:
                raise SessionError(f"the scene was not finished: {interrupt.reason}") from None
        return scene

    def _leave_to_parent(self) -> object:
        """See ``glimpse_runtime.fork``."""
        left, self._pipeline, self._forked = (self._pipeline, self._scenes), None, True
        self._turns, self._scenes = Turns(self._free), SceneCache(0)
        return left

    def _open_pipeline(self) -> Pipeline:
        if self._forked:
            raise fork.loaded_before()
        if self._pipeline is None:
            raise SessionError(CLOSED)
        return self._pipeline
