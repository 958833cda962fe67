"""Load a bundle once, ask many questions."""

import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.certificate import warn_if_uncertified
from glimpse_runtime.bundle.locate import locate
from glimpse_runtime.bundle.memory import DEFAULT_SCENE_CACHE_BYTES, memory_of_files
from glimpse_runtime.errors import InputError, PromptError, SessionError
from glimpse_runtime.inputs.grid import Grid, Patches
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.inputs.prompt import Prompt, build_prompt, checked_ids, place
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.interrupt import Interrupt, Interrupted
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import report_unpruned
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.session.request import (
    DEFAULT_MAX_NEW_TOKENS,
    Images,
    Request,
    frames_of,
    make_request,
    newest_stamp,
)
from glimpse_runtime.session.sampling import Sampler, Sampling
from glimpse_runtime.session.scene import Scene
from glimpse_runtime.session.scene_cache import SceneCache, SceneState, content_key
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.pipeline import Pipeline, Trace
from glimpse_runtime.steps.prefix import Prefix

WARMUPS = ("smallest", "largest", "off")


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_pixels: int | None = None,
    scene_cache_bytes: int = DEFAULT_SCENE_CACHE_BYTES,
    warmup: str = "smallest",
    verify: bool = False,
    trace: Trace | None = None,
) -> "Session":
    """Opens a bundle and makes it ready to answer.

    Args:
        bundle: the bundle's folder, or the id ``owner/name`` or ``owner/name@revision`` of one on the hub, which is
            downloaded once (extra ``hub``); a folder of that name comes first. None is the packaged pocket model.
        device: where to run: ``cpu``; ``cuda`` for ONNX Runtime on a GPU; ``tensorrt`` or ``tensorrt-rtx`` for
            engines that ``glimpse-export --target`` has built on this machine.
        threads: CPU threads per operator; None lets the engine choose. Not for TensorRT.
        max_pixels: shrink images to at most this many pixels; None, or more than the bundle's limit, is that limit.
        scene_cache_bytes: memory for the last images asked about, so that asking about the same image again is
            fast; 0 keeps nothing, right for a camera whose frames never repeat.
        warmup: ``smallest`` runs every graph once, so that the first question is not slower than the next;
            ``largest`` does so at the largest image and context, so that all memory is taken now and no later
            request can fail for it; ``off`` does nothing.
        verify: hash every file of the bundle, even if that was done before.
        trace: called with the name and value of intermediate arrays; the arrays are live, copy what you keep.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        BackendError: the engine is missing or cannot load the graphs.
        InputError: an option is out of its range.
    """
    if warmup not in WARMUPS:
        raise InputError(f"warmup must be one of {', '.join(WARMUPS)}, found {warmup!r}")
    opened = Bundle.open(locate(bundle), verify=verify)
    warn_if_uncertified(opened)
    backend = open_backend(device, threads)
    try:
        pipeline = Pipeline(opened, backend, trace)
        if warmup != "off":
            pipeline.warm_up(largest=warmup == "largest")
        return Session(opened, pipeline, max_pixels, scene_cache_bytes)
    except BaseException:
        backend.close()
        raise


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
        self._lock = threading.Lock()
        self._running: Interrupt | None = None
        self._unfinished: weakref.ref[Answer] | None = None
        self._scenes = SceneCache(scene_cache_bytes)
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
    ) -> Answer:
        """Asks a question about zero or more images.

        Everything is checked before anything is computed. The call returns when the first token is known; the
        rest is decoded while the answer is iterated. An earlier answer that nobody has begun to read is completed
        first, within this request's deadline; one that was begun and left is cancelled; one that was dropped is
        gone.

        Args:
            images: an image (path, bytes, PIL image, (height, width[, channels]) uint8 array, ``Frame``), a
                sequence of them, or None for text alone.
            question: the user's text.
            pruning: pruning options; None is the bundle's defaults.
            sampling: how tokens are chosen and what stops an answer; None is greedy.
            max_new_tokens: longest answer.
            timeout: seconds from this call until the answer ends with what it has, reason ``deadline``.
            system: system message; None is the model's own.
            encoding: channel order of image arrays, such as ``bgr8``; None is ``rgb8``.

        Raises:
            InputError: an image, the question or an option cannot be used.
            SessionError: the session is closed or busy.
        """
        request = make_request(pruning, sampling, max_new_tokens, timeout)
        self._begin(request.interrupt)
        with request.stats.stage("preprocess"):
            scene, pictures = self._read(images, encoding)
            prompt = self._build_prompt(question, scene.grids, system, ())
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, scene, pictures, request)

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
        self._begin(request.interrupt)
        with request.stats.stage("preprocess"):
            scene, pictures = self._read(images, None)
            prompt = place(
                checked_ids(ids, manifest.text.vocab_size, manifest.tokens.image),
                scene.grids,
                manifest.tokens.image,
                self._family,
            )
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, scene, pictures, request)

    def encode(
        self,
        images: Images,
        *,
        pruning: Pruning | None = None,
        encoding: str | None = None,
        timeout: float | None = None,
    ) -> Scene:
        """Runs everything about some images that does not depend on a question.

        Args:
            images: at least one image; see ``ask``.
            pruning: options of the questions that give none of their own; the scene is made for what enters layer 0
                by them, unless that depends on the question.
            encoding: channel order of image arrays.
            timeout: seconds it may take.

        Raises:
            InputError: an image cannot be used, or there is none.
            SessionError: the session is closed or busy, or it was ended by its deadline or ``cancel``.
        """
        request = make_request(pruning or Pruning(enabled=False), None, 1, timeout)
        stats, interrupt = request.stats, request.interrupt
        self._begin(interrupt)
        scene, pictures = self._read(images, encoding)
        if not pictures:
            raise InputError("a scene needs at least one image; ask(None, question) asks without")
        prompt = self._build_prompt("?", scene.grids, None, ())
        pipeline = self._open_pipeline()
        pipeline.check(prompt, request.pruning)
        self._finish_earlier_answer(interrupt)
        with self._turn():
            try:
                self._encode_into(scene, pictures, stats, interrupt)
                if not request.pruning.enters_by_question:
                    entry = pipeline.enter(prompt, scene.visual, request.pruning, stats, interrupt)
                    self._prefix(scene, entry, request, always=True)
            except Interrupted:
                raise SessionError(f"the scene was not finished: {interrupt.reason}") from None
        return Scene(self._ask_scene, scene, pruning)

    def cancel(self) -> None:
        """Ends the request that is running, from any thread; its answer keeps the text it has."""
        running = self._running
        if running is not None:
            running.cancel()

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
        with self._lock:
            self._scenes.clear()
            if self._pipeline is not None:
                self._pipeline.close()
                self._pipeline = None

    def __enter__(self) -> "Session":
        """Returns the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the session."""
        self.close()

    def _ask_scene(
        self, scene: SceneState, question: str, request: Request, system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Answer:
        self._begin(request.interrupt)
        with request.stats.stage("preprocess"):
            prompt = self._build_prompt(question, scene.grids, system, turns)
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, scene, None, request)

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
        self._finish_earlier_answer(interrupt)
        sampler = Sampler(request.sampling, prompt.ids, self.bundle.manifest.generation.repetition_penalty)
        report = report_unpruned(prompt.grids, "the request ended before pruning")
        first: int | None = None
        with self._turn():
            try:
                key = content_key(pictures) if pictures and self._scenes.limit_bytes else None
                known = self._scenes.get(key) if key else None
                if known is not None:
                    scene.visual, scene.prefix = known.visual, known.prefix
                elif pictures:
                    self._encode_into(scene, pictures, stats, interrupt)
                entry = pipeline.enter(prompt, scene.visual, request.pruning, stats, interrupt)
                prefix = self._prefix(scene, entry, request, always=pictures is None)
                if key:
                    self._scenes.put(key, scene)
                logits, report = pipeline.prefill(entry, scene.visual, prefix, request.pruning, stats, interrupt)
                first = sampler.choose(logits)
            except Interrupted:
                pass  # the answer says so by its reason
        stats.ttft_ms = (time.perf_counter() - request.start_s) * 1e3
        stats.prompt_tokens = len(prompt.ids)
        stats.visual_tokens, stats.kept_tokens = report.total, report.kept
        stop = frozenset(self.bundle.manifest.tokens.eos if request.eos is None else request.eos)
        answer = Answer(
            self._generate(first, sampler, stop, request),
            stop,
            self._tokenizer,
            dataclasses.replace(report, image_sizes=scene.sizes, seen=tuple(map(self._family.seen, scene.sizes))),
            stats,
            interrupt,
            request.sampling.stop,
            scene.stamp,
        )
        self._unfinished = weakref.ref(answer)
        return answer

    def _generate(self, token: int | None, sampler: Sampler, stop: frozenset[int], request: Request) -> Iterator[int]:
        """Yields tokens, the one that stops the answer included."""
        if token is None:
            return
        for count in range(1, request.max_new_tokens + 1):
            request.stats.new_tokens = count
            yield token
            pipeline = self._open_pipeline()
            if token in stop or count == request.max_new_tokens or pipeline.room == 0:
                return
            with self._turn():
                try:
                    token = sampler.choose(pipeline.decode(token, request.stats, request.interrupt))
                except Interrupted:
                    return

    def _read(self, images: Images, encoding: str | None) -> tuple[SceneState, list[Image.Image]]:
        """Reads images; returns a scene that knows only their sizes, and their pixels."""
        frames = frames_of(images, encoding)
        pictures = [read_image(frame.image, frame.encoding) for frame in frames]
        grids = tuple(self._family.grid(picture) for picture in pictures)
        return SceneState(grids, tuple(picture.size for picture in pictures), newest_stamp(frames)), pictures

    def _encode_into(
        self, scene: SceneState, pictures: Sequence[Image.Image], stats: Stats, interrupt: Interrupt
    ) -> None:
        pipeline = self._open_pipeline()

        def patches(picture: Image.Image) -> Patches:
            with stats.stage("preprocess"):
                return self._family.patches(picture)

        # One after the other: patches take more memory than what is made of them.
        scene.visual = [pipeline.encode(patches(picture), stats, interrupt) for picture in pictures]

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
        return build_prompt(
            self._tokenizer, manifest.prompt, manifest.tokens, self._family, question, grids, system, turns
        )

    def _finish_earlier_answer(self, interrupt: Interrupt) -> None:
        """Ends an answer that is still held: its KV cache is about to be reused."""
        earlier = self._unfinished() if self._unfinished else None
        if earlier is not None:
            earlier._finish_for(interrupt)

    def _begin(self, interrupt: Interrupt) -> None:
        """Makes a request the one that ``cancel`` ends, unless another is being computed."""
        if not self._lock.locked():
            self._running = interrupt

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Holds the session for one computation, or says that it is busy."""
        if not self._lock.acquire(blocking=False):
            raise SessionError("this session is busy with another request; use one session per thread")
        try:
            yield
        finally:
            self._lock.release()

    def _open_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionError("this session is closed; load the bundle again")
        return self._pipeline
