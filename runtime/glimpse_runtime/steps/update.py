"""The vision encoder over time: of a camera's frame only the windows whose pixels changed are run again.

Blocks with windows need nothing of other windows; the blocks that attend to the whole image read the keys and values
that unchanged patches had when they were last run. That makes the result inexact, so every few frames everything is run
again. The way is near to STC (arXiv 2512.00891); what is compared and cached is the project's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, BoolArray, FloatArray, IntArray
from glimpse_runtime.backends import Engine, Tensor
from glimpse_runtime.backends.host import host
from glimpse_runtime.bundle.manifest import Manifest, StageSpec
from glimpse_runtime.inputs.changes import changed_cells
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Patches
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.steps.vision import VisualTokens

MOST_CHANGED = 0.6
"""Where more than this share of a frame changed, all of it is run again."""
_PAST, _PRESENT = "past.", "present."


class UpdateEngine:
    """The graph that updates, also in place of the vision graph: an image of its own is an update of all its rows."""

    def __init__(self, engine: Engine, stage: StageSpec) -> None:
        """Takes the loaded graph, which got no state, and its description."""
        self._engine = engine
        self._widths = {
            tensor.name[len(_PAST) :]: int(tensor.shape[1]) for tensor in stage.inputs if tensor.name.startswith(_PAST)
        }

    def cache(self, patches: int) -> dict[str, Array]:
        """Returns memory for the keys and values of so many patches, (patches, width) float32 each by name."""
        return {name: np.zeros((patches, width), np.float32) for name, width in self._widths.items()}

    def update(
        self,
        inputs: Mapping[str, Tensor],
        cache: Mapping[str, Array],
        outputs: Mapping[str, Tensor],
        interrupt: Interrupt,
    ) -> dict[str, Tensor]:
        """Runs some rows; what it leaves in ``cache`` makes no sense when it does not return.

        Args:
            inputs: ``rows``, (R,) int64 numbers of the patches that are run, and what the vision graph takes of them.
            cache: keys and values of all patches; those of the rows are written over.
            outputs: tensors to write outputs to.
            interrupt: ends the request.
        """
        past = {f"{_PAST}{name}": array for name, array in cache.items()}
        present = {f"{_PRESENT}{name}": array for name, array in cache.items()}
        found = self._engine.run({**inputs, **past}, interrupt, {**present, **outputs})
        return {name: tensor for name, tensor in found.items() if name not in present}

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Encodes what is there as the vision graph does; see ``Engine.run``."""
        count = inputs["pixel_values"].shape[0]
        rows = np.arange(count, dtype=np.int64)
        return self.update({**inputs, "rows": rows}, self.cache(count), outputs or {}, interrupt)

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds once; see ``Engine.prepare``."""
        return self._engine.prepare(inputs, outputs)

    def close(self) -> None:
        """Frees the graph."""
        self._engine.close()


@dataclass
class Seen:
    """What a stream knows of its frames; made and renewed by ``Updater``.

    Attributes:
        pixels: (patches, values) float32: what every patch was last computed from.
        cache: keys and values of the blocks that attend to everything, (patches, width) float32 by name.
        tokens: the last frame's visual tokens.
        changed: (visual tokens,) bool: which of them the last frame had computed.
        age: frames since everything was computed; 0 where the last frame was.
    """

    pixels: FloatArray
    cache: dict[str, Array]
    tokens: VisualTokens
    changed: BoolArray
    age: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        arrays = (self.pixels, self.changed, *self.cache.values())
        return self.tokens.nbytes + sum(array.nbytes for array in arrays)


class Updater:
    """Encodes the frames of streams; what it knows of a stream is the stream's own."""

    def __init__(self, manifest: Manifest, family: Family, engine: UpdateEngine) -> None:
        """Takes the loaded graph."""
        self._manifest = manifest
        self._family = family
        self._engine = engine

    def __call__(self, frame: Patches, seen: Seen | None, refresh: int, interrupt: Interrupt) -> Seen:
        """Returns what is known after a frame.

        Args:
            frame: all of its patches.
            seen: what the frame before left; its cache is written over, so that it makes no sense any more, also where
                this ends early. None is a first frame.
            refresh: everything is run when it was last run so many frames ago.
            interrupt: ends the request early.

        Raises:
            Interrupted: the request has ended.
        """
        interrupt.check()
        grid = frame.grid
        if seen is None or seen.tokens.grid != grid or seen.age + 1 >= refresh:
            return self._whole(frame, seen, interrupt)
        windows = self._family.windows(grid)
        touched = np.unique(windows[changed_cells(frame, seen.pixels)])
        changed: BoolArray = np.isin(windows, touched)
        if changed.mean() > MOST_CHANGED:
            return self._whole(frame, seen, interrupt)
        if not changed.any():
            return Seen(seen.pixels, seen.cache, seen.tokens, changed, seen.age + 1)
        cells = np.flatnonzero(changed)
        part = self._run(frame, cells, seen.cache, interrupt)
        # Scenes of earlier frames hold the old arrays.
        embeds, features = host(seen.tokens.embeds).copy(), host(seen.tokens.features).copy()
        embeds[cells], features[:, cells] = part.embeds, part.features
        rows = grid.patches_of(cells)
        seen.pixels[rows] = frame.pixel_values[rows]
        return Seen(seen.pixels, seen.cache, VisualTokens(grid, embeds, features), changed, seen.age + 1)

    def _whole(self, frame: Patches, seen: Seen | None, interrupt: Interrupt) -> Seen:
        grid = frame.grid
        known = seen is not None and seen.tokens.grid == grid
        cache = seen.cache if known and seen is not None else self._engine.cache(grid.patches)
        tokens = self._run(frame, np.arange(grid.visual_tokens), cache, interrupt)
        return Seen(frame.pixel_values.copy(), cache, tokens, np.ones(grid.visual_tokens, np.bool_))

    def _run(self, frame: Patches, cells: IntArray, cache: Mapping[str, Array], interrupt: Interrupt) -> VisualTokens:
        """Returns the tokens of some cells alone."""
        grid, vision = frame.grid, self._manifest.vision
        embeds: Array = np.zeros((len(cells), self._manifest.text.hidden_size), np.float32)
        features: Array = np.zeros((len(vision.taps), len(cells), vision.hidden_size), np.float32)
        inputs: dict[str, Tensor] = {"rows": grid.patches_of(cells), "pixel_values": frame.rows(cells)}
        inputs |= self._family.vision_inputs(grid, cells)
        self._engine.update(inputs, cache, {"image_embeds": embeds, "features": features}, interrupt)
        return VisualTokens(grid, embeds, features)
