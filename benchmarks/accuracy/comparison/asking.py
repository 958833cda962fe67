"""Asks one question one way and says what it cost, on a session that remembers nothing between questions.

An image is preprocessed and encoded once and its time is added to every question about it. Everything behind the vision
encoder runs anew for every question: with a kept scene, the image's way through the lower layers would be free for
whoever comes second.
"""

import time
from dataclasses import dataclass

from PIL import Image

from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_runtime import Pruning, Session
from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.inputs.prompt import Prompt
from glimpse_runtime.pruners import BEFORE
from glimpse_runtime.pruning.report import PruneReport
from glimpse_runtime.session.request import make_request
from glimpse_runtime.session.scene_cache import SceneState
from glimpse_runtime.session.seeing import encode_into, read

PREFILL = ("preselect", "lower", "score", "select", "compact", "upper")


@dataclass(frozen=True)
class Picture:
    """An encoded image; its scene has the visual tokens and nothing of the decoder.

    Attributes:
        scene: sizes, grid and visual tokens; None for no image at all.
        spent_ms: what reading, resizing and encoding took.
    """

    scene: SceneState | None
    spent_ms: float

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the merged grid; none without an image."""
        return self.scene.grids[0].merged if self.scene else (0, 0)

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens."""
        return self.grid[0] * self.grid[1]


NO_PICTURE = Picture(None, 0.0)


@dataclass(frozen=True)
class Reply:
    """The answer to one question, asked one way.

    Attributes:
        text: the answer.
        kept: visual tokens behind the split.
        mask: (rows, columns) which; None without an image.
        prefill_ms: the decoder's stages before the first token.
        ttft_ms: from the image to the first token, vision encoder and prompt included.
        decode_ms: for each token after the first; None when the first one ended the answer.
        kv_bytes: valid rows of the KV cache at the first token.
        kv_peak_bytes: most that were valid at a time before it.
    """

    text: str
    kept: int
    mask: BoolArray | None
    prefill_ms: float
    ttft_ms: float
    decode_ms: float | None
    kv_bytes: int
    kv_peak_bytes: int


class Asker:
    """Asks a session, which must have been loaded with ``scene_cache_bytes=0``."""

    def __init__(self, session: Session) -> None:
        """Takes the session, which is still the caller's to close."""
        if session._scenes.limit_bytes:
            raise ValueError("load the session with scene_cache_bytes=0: a kept scene makes later questions cheaper")
        self._session = session
        self._pipeline = session._open_pipeline()

    def look(self, image: Image.Image) -> Picture:
        """Encodes an image."""
        start = time.perf_counter()
        scene, pixels = read(image, None, self._session._family)
        encode_into(scene, pixels, self._pipeline, self._session._family, make_request(None, None, 1, None))
        for visual in scene.visual:  # a device is waited for: its time must not fall on whoever asks first
            self._pipeline._backend.download(visual.embeds)
        return Picture(scene, (time.perf_counter() - start) * 1e3)

    def check(self, picture: Picture, question: str, pruning: Pruning) -> None:
        """Refuses what the bundle cannot answer.

        Raises:
            PruningError: the bundle lacks what a method needs.
        """
        self._pipeline.check(self._prompt(picture, question), pruning)

    def ask(self, picture: Picture, question: str, pruning: Pruning) -> Reply:
        """Asks a question about an image, or about none."""
        request = make_request(pruning, None, MAX_NEW_TOKENS, None)
        with request.stats.stage("preprocess"):
            prompt = self._prompt(picture, question)
            self._pipeline.check(prompt, pruning)
        known = picture.scene
        # A scene of its own: what the decoder makes of the image must not reach the next question.
        scene = SceneState(known.grids, known.sizes, visual=known.visual) if known else SceneState((), ())
        answer = self._session._answer(prompt, scene, [], request)
        if scene.prefix is not None:
            raise RuntimeError("the lower layers' rows of an image were kept: later questions would look faster")
        kv_bytes, kv_peak_bytes = self._kv_bytes(prompt, pruning, answer.pruning)
        text, stats = answer.text, answer.stats
        steps = stats.new_tokens - 1
        return Reply(
            text=text.strip(),
            kept=answer.pruning.kept,
            mask=answer.pruning.keep_masks[0] if known else None,
            prefill_ms=sum(stats.stage_ms[stage] for stage in PREFILL),
            ttft_ms=picture.spent_ms + stats.ttft_ms,
            decode_ms=stats.stage_ms["decode"] / steps if steps else None,
            kv_bytes=kv_bytes,
            kv_peak_bytes=kv_peak_bytes,
        )

    def _prompt(self, picture: Picture, question: str) -> Prompt:
        grids = picture.scene.grids if picture.scene else ()
        return self._session._build_prompt(question, grids, None, ())

    def _kv_bytes(self, prompt: Prompt, pruning: Pruning, report: PruneReport) -> tuple[int, int]:
        """Bytes of valid rows at the first token, and the most at a time until then.

        Lower and upper layers hold the same rows when compaction is done; before it, the lower ones hold all rows that
        entered, and the upper ones none.
        """
        lower, upper = self._pipeline._lower_cache, self._pipeline._upper_cache
        row_bytes = {cache: cache.nbytes // cache.capacity for cache in (lower, upper)}
        held = sum(row_bytes[cache] * cache.length for cache in (lower, upper))
        entered = report.pre_kept
        if entered is None:
            entered = report.kept if pruning.enabled and pruning.pruner.place == BEFORE else report.total
        rows = len(prompt.ids) - report.total + entered + self._pipeline._selector.glimpse_rows(prompt, pruning)
        return held, max(held, row_bytes[lower] * rows)
