"""Load a bundle once, ask many questions."""

import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np

from glimpse_runtime.answer import Answer
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle import Bundle
from glimpse_runtime.errors import InputError, PromptError, SessionError
from glimpse_runtime.images import ImageSource, read_image
from glimpse_runtime.pipeline import Pipeline, Trace
from glimpse_runtime.preprocess import Patches, patch_grid, patchify
from glimpse_runtime.prompt import Prompt, build_prompt
from glimpse_runtime.pruning import Pruning
from glimpse_runtime.stats import Stats
from glimpse_runtime.tokenizer import Tokenizer
from glimpse_runtime.types import IntArray

Images = ImageSource | Sequence[ImageSource] | None

DEFAULT_MAX_NEW_TOKENS = 128


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_pixels: int | None = None,
    verify: bool = False,
    trace: Trace | None = None,
) -> "Session":
    """Opens a bundle and makes it ready to answer.

    Args:
        bundle: the bundle's folder; None is the packaged pocket model.
        device: where to run; ``cpu``.
        threads: CPU threads per operator; None lets the engine choose.
        max_pixels: shrink images to at most this many pixels; None is the bundle's own limit.
        verify: hash every file of the bundle, even if that was done before.
        trace: called with the name and value of intermediate arrays.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        BackendError: the engine is missing or cannot load the graphs.
    """
    opened = Bundle.open(bundle, verify=verify)
    return Session(opened, Pipeline(opened, open_backend(device, threads), trace), max_pixels)


class Session:
    """A loaded bundle. Not re-entrant: one request at a time; use one session per thread."""

    def __init__(self, bundle: Bundle, pipeline: Pipeline, max_pixels: int | None = None) -> None:
        """Wraps a pipeline; use ``load``."""
        manifest = bundle.manifest
        self.bundle = bundle
        self._pipeline: Pipeline | None = pipeline
        self._tokenizer = Tokenizer(bundle.path("tokenizer.json")) if manifest.prompt else None
        self._lock = threading.Lock()
        self._unfinished: weakref.ref[Answer] | None = None
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
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        system: str | None = None,
        encoding: str | None = None,
    ) -> Answer:
        """Asks a question about zero or more images.

        Everything is checked before anything is computed. The call returns when the first token is known; the
        rest is decoded while the answer is iterated. An earlier answer that is still held but not complete is
        completed first; one that was dropped costs nothing more.

        Args:
            images: an image (path, bytes, PIL image, (height, width[, channels]) uint8 array), a sequence of them,
                or None for text alone.
            question: the user's text.
            pruning: pruning options; None is the bundle's defaults.
            max_new_tokens: longest answer.
            system: system message; None is the model's own.
            encoding: channel order of image arrays, such as ``bgr8``; None is ``rgb8``.

        Raises:
            InputError: an image, the question or an option cannot be used.
            SessionError: the session is closed or busy.
        """
        start = time.perf_counter()
        if self._tokenizer is None or self.bundle.manifest.prompt is None:
            raise PromptError("this bundle has no tokenizer; use ask_ids with token ids")
        stats = Stats()
        with stats.stage("preprocess"):
            pictures = [read_image(image, encoding) for image in _as_list(images)]
            grids = [patch_grid(picture, self._image_rules) for picture in pictures]
            prompt = build_prompt(
                self._tokenizer,
                self.bundle.manifest.prompt,
                self.bundle.manifest.tokens,
                question,
                grids,
                system,
            )
            self._open_pipeline().check(prompt, pruning or Pruning())
            patches = [patchify(picture, self._image_rules) for picture in pictures]
        return self._answer(prompt, patches, pruning or Pruning(), max_new_tokens, None, stats, start)

    def ask_ids(
        self,
        images: Images,
        ids: Sequence[int] | IntArray,
        *,
        pruning: Pruning | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        eos: Sequence[int] | None = None,
    ) -> Answer:
        """Asks with a tokenised prompt that holds one image token per visual token; needs no tokenizer.

        Args:
            images: the images in prompt order.
            ids: (tokens,) the prompt.
            pruning: pruning options; None is the bundle's defaults.
            max_new_tokens: longest answer.
            eos: ids that end the answer; None is the bundle's.

        Raises:
            InputError: an image, the prompt or an option cannot be used.
            SessionError: the session is closed or busy.
        """
        start = time.perf_counter()
        stats = Stats()
        with stats.stage("preprocess"):
            pictures = [read_image(image) for image in _as_list(images)]
            grids = [patch_grid(picture, self._image_rules) for picture in pictures]
            prompt = Prompt(self._checked_ids(ids), tuple(grids))
            self._open_pipeline().check(prompt, pruning or Pruning())
            patches = [patchify(picture, self._image_rules) for picture in pictures]
        return self._answer(prompt, patches, pruning or Pruning(), max_new_tokens, eos, stats, start)

    def close(self) -> None:
        """Frees the model; the session cannot be used afterwards."""
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

    def _answer(
        self,
        prompt: Prompt,
        patches: Sequence[Patches],
        pruning: Pruning,
        max_new_tokens: int,
        eos: Sequence[int] | None,
        stats: Stats,
        start: float,
    ) -> Answer:
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
        pipeline = self._open_pipeline()
        self._finish_earlier_answer()
        with self._turn():
            visual = [pipeline.encode(image, stats) for image in patches]
            logits, report = pipeline.prefill(prompt, visual, pruning, stats)
            first = int(logits.argmax())
        stats.ttft_ms = (time.perf_counter() - start) * 1e3
        stats.prompt_tokens = len(prompt.ids)
        stop = frozenset(self.bundle.manifest.tokens.eos if eos is None else eos)
        tokens = self._generate(first, stop, max_new_tokens, stats)
        sizes = tuple(image.original_size for image in patches)
        answer = Answer(tokens, stop, self._tokenizer, report, stats, sizes)
        self._unfinished = weakref.ref(answer)
        return answer

    def _finish_earlier_answer(self) -> None:
        """Decodes the rest of an earlier answer that somebody still holds: its KV cache is about to be reused."""
        earlier = self._unfinished() if self._unfinished else None
        if earlier is not None:
            _ = earlier.text

    def _generate(self, token: int, stop: frozenset[int], max_new_tokens: int, stats: Stats) -> Iterator[int]:
        """Yields greedy tokens, the one that stops the answer included."""
        for count in range(1, max_new_tokens + 1):
            stats.new_tokens = count
            yield token
            pipeline = self._open_pipeline()
            if token in stop or count == max_new_tokens or pipeline.room == 0:
                return
            with self._turn():
                token = int(pipeline.decode(token, stats).argmax())

    def _turn(self) -> "_Turn":
        return _Turn(self._lock)

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


class _Turn:
    """Holds the session for one computation, or says that it is busy."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise SessionError("this session is busy with another request; use one session per thread")

    def __exit__(self, *unused: object) -> None:
        self._lock.release()


def _as_list(images: Images) -> list[ImageSource]:
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return list(images)
    return [images]  # type: ignore[list-item]
