"""Load a bundle once, ask many questions."""

import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from PIL import Image

from glimpse_runtime import pruning as rules
from glimpse_runtime.answer import Answer
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle import Bundle
from glimpse_runtime.errors import InputError, PromptError, SessionError
from glimpse_runtime.frames import Frame
from glimpse_runtime.images import ImageSource, read_image
from glimpse_runtime.interrupt import Interrupt, Interrupted
from glimpse_runtime.pipeline import Pipeline, Trace
from glimpse_runtime.preprocess import Grid, patch_grid, patchify
from glimpse_runtime.prompt import Prompt, build_prompt
from glimpse_runtime.pruning import PruneReport, Pruning
from glimpse_runtime.regions import kept_boxes
from glimpse_runtime.sampling import Sampler, Sampling
from glimpse_runtime.scene import DEFAULT_MAX_NEW_TOKENS, Scene, SceneCache, SceneState, content_key
from glimpse_runtime.stats import Stats
from glimpse_runtime.tokenizer import Tokenizer
from glimpse_runtime.types import IntArray

Images = ImageSource | Frame | Sequence[ImageSource | Frame] | None

DEFAULT_SCENE_CACHE_BYTES = 256 << 20


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_pixels: int | None = None,
    scene_cache_bytes: int = DEFAULT_SCENE_CACHE_BYTES,
    verify: bool = False,
    trace: Trace | None = None,
) -> "Session":
    """Opens a bundle and makes it ready to answer.

    Args:
        bundle: the bundle's folder; None is the packaged pocket model.
        device: where to run; ``cpu``.
        threads: CPU threads per operator; None lets the engine choose.
        max_pixels: shrink images to at most this many pixels; None is the bundle's own limit.
        scene_cache_bytes: memory for the last images asked about, so that asking about the same image again is
            fast; 0 keeps nothing, right for a camera whose frames never repeat.
        verify: hash every file of the bundle, even if that was done before.
        trace: called with the name and value of intermediate arrays.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        BackendError: the engine is missing or cannot load the graphs.
        InputError: an option is out of its range.
    """
    opened = Bundle.open(bundle, verify=verify)
    pipeline = Pipeline(opened, open_backend(device, threads), trace)
    return Session(opened, pipeline, max_pixels, scene_cache_bytes)


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
        self._unfinished: weakref.ref[Answer] | None = None
        self._running: Interrupt | None = None
        self._scenes = SceneCache(scene_cache_bytes)
        self._image_rules = manifest.images
        if max_pixels is not None:
            smallest = (manifest.images.patch_size * manifest.images.merge_size) ** 2
            if max_pixels < smallest:
                raise InputError(f"max_pixels must be at least {smallest} (one visual token), found {max_pixels}")
            lower = min(manifest.images.min_pixels, max_pixels)
            self._image_rules = dataclasses.replace(manifest.images, min_pixels=lower, max_pixels=max_pixels)

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
        rest is decoded while the answer is iterated. An earlier answer that is still held but not complete is
        completed first; one that was dropped costs nothing more.

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
        request = _Request.make(pruning, sampling, max_new_tokens, timeout)
        with request.stats.stage("preprocess"):
            frames = _frames(images, encoding)
            pictures = [read_image(frame.image, frame.encoding) for frame in frames]
            grids = tuple(patch_grid(picture, self._image_rules) for picture in pictures)
            prompt = self._build_prompt(question, grids, system, ())
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, pictures, None, request, _newest(frames))

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
        request = _Request.make(pruning, sampling, max_new_tokens, timeout, eos)
        with request.stats.stage("preprocess"):
            frames = _frames(images, None)
            pictures = [read_image(frame.image, frame.encoding) for frame in frames]
            grids = tuple(patch_grid(picture, self._image_rules) for picture in pictures)
            prompt = Prompt(self._checked_ids(ids), grids)
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, pictures, None, request, _newest(frames))

    def encode(self, images: Images, *, encoding: str | None = None) -> Scene:
        """Runs everything about some images that does not depend on a question.

        Args:
            images: at least one image; see ``ask``.
            encoding: channel order of image arrays.

        Raises:
            InputError: an image cannot be used, or there is none.
            SessionError: the session is closed or busy.
        """
        stats = Stats()
        frames = _frames(images, encoding)
        if not frames:
            raise InputError("a scene needs at least one image; ask(None, question) asks without")
        pictures = [read_image(frame.image, frame.encoding) for frame in frames]
        grids = tuple(patch_grid(picture, self._image_rules) for picture in pictures)
        prompt = self._build_prompt("?", grids, None, ())
        pipeline = self._open_pipeline()
        pipeline.check(prompt, Pruning(enabled=False))
        self._finish_earlier_answer()
        state, interrupt = SceneState(), Interrupt()
        with self._turn(interrupt):
            self._encode_into(state, pictures, stats, interrupt)
            state.prefix = pipeline.prefix(prompt, state.visual, stats, interrupt)
        return Scene(self, state, grids, tuple(picture.size for picture in pictures), _newest(frames))

    def cancel(self) -> None:
        """Ends the request that is running, from any thread; its answer keeps the text it has."""
        running = self._running
        if running is not None:
            running.cancel()

    def memory_plan(self) -> dict[str, int]:
        """Returns bytes by purpose: KV caches, memory-mapped embedding table, weights, scenes now and at most."""
        pipeline, files = self._open_pipeline(), self.bundle.manifest.files
        table = self.bundle.manifest.embedding.file
        return {
            "kv_cache_bytes": pipeline.cache_bytes,
            "weight_bytes": sum(spec.bytes for name, spec in files.items() if name.endswith(".data")),
            "embedding_bytes": files[table].bytes,
            "scene_bytes": self._scenes.nbytes,
            "scene_limit_bytes": self._scenes.limit_bytes,
        }

    def close(self) -> None:
        """Frees the model and its scenes; the session cannot be used afterwards."""
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
        self,
        state: SceneState,
        grids: tuple[Grid, ...],
        sizes: tuple[tuple[int, int], ...],
        stamp: float | None,
        question: str,
        *,
        pruning: Pruning | None,
        sampling: Sampling | None,
        max_new_tokens: int,
        timeout: float | None,
        system: str | None,
        turns: Sequence[tuple[str, str]],
    ) -> Answer:
        request = _Request.make(pruning, sampling, max_new_tokens, timeout)
        with request.stats.stage("preprocess"):
            prompt = self._build_prompt(question, grids, system, turns)
            self._open_pipeline().check(prompt, request.pruning)
        return self._answer(prompt, (), (state, sizes), request, stamp)

    def _answer(
        self,
        prompt: Prompt,
        pictures: Sequence[Image.Image],
        scene: tuple[SceneState, tuple[tuple[int, int], ...]] | None,
        request: "_Request",
        stamp: float | None,
    ) -> Answer:
        """Prefills, chooses the first token, and leaves the rest to the answer's iterator."""
        pipeline, stats, interrupt = self._open_pipeline(), request.stats, request.interrupt
        self._finish_earlier_answer()
        sampler = Sampler(request.sampling, prompt.ids.tolist())
        first: int | None = None
        with self._turn(interrupt):
            try:
                state = scene[0] if scene else self._state_of(pictures, stats, interrupt)
                if self._keeps(state, scene is not None) and _starts_otherwise(state, prompt):
                    state.prefix = pipeline.prefix(prompt, state.visual, stats, interrupt)
                logits, report = pipeline.prefill(prompt, state.visual, state.prefix, request.pruning, stats, interrupt)
                if scene is None and pictures and state.prefix is not None:
                    self._scenes.put(content_key(pictures), state)
                first = sampler.choose(logits)
            except Interrupted:
                report = rules.report_unpruned(prompt.grids, f"the request ended before pruning: {interrupt.reason}")
        sizes = scene[1] if scene else tuple(picture.size for picture in pictures)
        stats.ttft_ms = (time.perf_counter() - request.start) * 1e3
        stats.prompt_tokens = len(prompt.ids)
        stop = frozenset(self.bundle.manifest.tokens.eos if request.eos is None else request.eos)
        answer = Answer(
            self._generate(first, sampler, stop, request),
            stop,
            self._tokenizer,
            _with_boxes(report, sizes),
            stats,
            interrupt,
            request.sampling.stop,
            sizes,
            stamp,
        )
        self._unfinished = weakref.ref(answer)
        return answer

    def _generate(
        self, token: int | None, sampler: Sampler, stop: frozenset[int], request: "_Request"
    ) -> Iterator[int]:
        """Yields tokens, the one that stops the answer included."""
        if token is None:
            return
        for count in range(1, request.max_new_tokens + 1):
            request.stats.new_tokens = count
            yield token
            pipeline = self._open_pipeline()
            if token in stop or count == request.max_new_tokens or pipeline.room == 0:
                return
            with self._turn(request.interrupt):
                try:
                    token = sampler.choose(pipeline.decode(token, request.stats, request.interrupt))
                except Interrupted:
                    return

    def _state_of(self, pictures: Sequence[Image.Image], stats: Stats, interrupt: Interrupt) -> SceneState:
        """Returns what is known of the pictures, running the vision encoder if nothing is."""
        state = self._scenes.get(content_key(pictures)) if pictures and self._scenes.limit_bytes else None
        if state is None:
            state = SceneState()
            self._encode_into(state, pictures, stats, interrupt)
        return state

    def _encode_into(
        self, state: SceneState, pictures: Sequence[Image.Image], stats: Stats, interrupt: Interrupt
    ) -> None:
        pipeline = self._open_pipeline()
        with stats.stage("preprocess"):
            patches = [patchify(picture, self._image_rules) for picture in pictures]
        state.visual = [pipeline.encode(image, stats, interrupt) for image in patches]

    def _keeps(self, state: SceneState, is_scene: bool) -> bool:
        """Whether the prompt's start is worth keeping: for a scene always, else if the cache has room for it."""
        if not state.visual:
            return False
        tokens = sum(image.grid.visual_tokens for image in state.visual)
        return is_scene or self._open_pipeline().prefix_bytes(tokens) + state.nbytes <= self._scenes.limit_bytes

    def _build_prompt(
        self, question: str, grids: Sequence[Grid], system: str | None, turns: Sequence[tuple[str, str]]
    ) -> Prompt:
        manifest = self.bundle.manifest
        if self._tokenizer is None or manifest.prompt is None:
            raise PromptError("this bundle has no tokenizer; use ask_ids with token ids")
        return build_prompt(self._tokenizer, manifest.prompt, manifest.tokens, question, grids, system, turns)

    def _finish_earlier_answer(self) -> None:
        """Decodes the rest of an earlier answer that somebody still holds: its KV cache is about to be reused."""
        earlier = self._unfinished() if self._unfinished else None
        if earlier is not None:
            _ = earlier.text

    def _turn(self, interrupt: Interrupt) -> "_Turn":
        return _Turn(self, interrupt)

    def _open_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionError("this session is closed; load the bundle again")
        return self._pipeline

    def _checked_ids(self, ids: Sequence[int] | IntArray) -> IntArray:
        array = np.asarray(ids)
        size = self.bundle.manifest.text.vocab_size
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise PromptError("the prompt must be a non-empty one-dimensional sequence of integer token ids")
        if array.min() < 0 or array.max() >= size:
            raise PromptError(f"token ids must lie in 0..{size - 1}, found {array.min()}..{array.max()}")
        return array.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class _Request:
    """The checked options of one request, and its clock."""

    pruning: Pruning
    sampling: Sampling
    max_new_tokens: int
    eos: Sequence[int] | None
    interrupt: Interrupt
    stats: Stats
    start: float

    @classmethod
    def make(
        cls,
        pruning: Pruning | None,
        sampling: Sampling | None,
        max_new_tokens: int,
        timeout: float | None,
        eos: Sequence[int] | None = None,
    ) -> "_Request":
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
        if timeout is not None and not timeout >= 0:
            raise InputError(f"timeout must be a number of seconds, not negative, found {timeout}")
        return cls(
            pruning or Pruning(),
            sampling or Sampling(),
            max_new_tokens,
            eos,
            Interrupt(timeout),
            Stats(),
            time.perf_counter(),
        )


class _Turn:
    """Holds the session for one computation, or says that it is busy."""

    def __init__(self, session: Session, interrupt: Interrupt) -> None:
        self._session = session
        self._interrupt = interrupt

    def __enter__(self) -> None:
        if not self._session._lock.acquire(blocking=False):
            raise SessionError("this session is busy with another request; use one session per thread")
        self._session._running = self._interrupt

    def __exit__(self, *unused: object) -> None:
        self._session._lock.release()


def _frames(images: Images, encoding: str | None) -> list[Frame]:
    if images is None:
        return []
    listed = list(images) if isinstance(images, (list, tuple)) else [images]
    frames = []
    for image in listed:
        if isinstance(image, Frame):
            frames.append(image)
        else:
            frames.append(Frame(image, encoding))  # type: ignore[arg-type]
    return frames


def _newest(frames: Sequence[Frame]) -> float | None:
    return max((frame.stamp for frame in frames if frame.stamp is not None), default=None)


def _starts_otherwise(state: SceneState, prompt: Prompt) -> bool:
    """Whether the prompt does not start as the scene's prefix does, or there is none."""
    prefix = state.prefix
    return prefix is None or not np.array_equal(prefix.ids, prompt.ids[: len(prefix.ids)])


def _with_boxes(report: PruneReport, sizes: Sequence[tuple[int, int]]) -> PruneReport:
    boxes = tuple(kept_boxes(mask, size) for mask, size in zip(report.keep_masks, sizes, strict=True))
    return dataclasses.replace(report, boxes=boxes)
