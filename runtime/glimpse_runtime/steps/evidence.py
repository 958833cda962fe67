"""What pruning methods see: gathers the arrays they ask for, on the host."""

from collections.abc import Mapping, Sequence

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Tensor
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.embedding import EmbeddingTable
from glimpse_runtime.pruners import Pruner, PrunerInput
from glimpse_runtime.pruning.weights import read_weights
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.vision import VisualTokens


class Evidence:
    """Makes the inputs of pruning methods."""

    def __init__(self, bundle: Bundle, backend: Backend, embedding: EmbeddingTable) -> None:
        """Takes where things are."""
        self._bundle = bundle
        self._backend = backend
        self._embedding = embedding
        self._weights: dict[str, Mapping[str, FloatArray]] = {}

    def inputs(
        self,
        pruner: Pruner,
        entry: Entry,
        images: Sequence[VisualTokens],
        keep: IntArray,
        seed: int,
        split: Mapping[str, Array],
    ) -> list[PrunerInput]:
        """Returns the input of each image of which something entered.

        Args:
            pruner: the method; it gets what it needs and no more.
            entry: the prompt.
            images: its encoded images.
            keep: (images,) how many tokens of each a mask should keep.
            seed: of the request.
            split: arrays of the split by need; the tokens that entered lie on the last axis, of ``hidden`` on the
                first.
        """
        shared = self._shared(pruner, entry)
        made, taken = [], 0
        for number, (image, cells) in enumerate(zip(images, entry.cells(), strict=True)):
            own = slice(taken, taken + len(cells))
            taken = own.stop
            if not len(cells):
                continue
            arrays = {name: array[own] if name == "hidden" else array[..., own] for name, array in split.items()}
            if "embeds" in pruner.needs:
                arrays["embeds"] = self.embeds(image, cells)
            if "features" in pruner.needs:
                arrays["features"] = self._backend.download(image.features)[:, cells]
            if "vision_attention" in pruner.needs and image.received is not None:
                arrays["vision_attention"] = image.received[cells]
            positions = entry.positions[:, entry.visual_rows[own]]
            made.append(
                PrunerInput(number, *image.grid.merged, cells, positions, int(keep[number]), seed, {**shared, **arrays})
            )
        return made

    def embeds(self, image: VisualTokens, cells: IntArray) -> FloatArray:
        """Returns the (cells, hidden) embeddings of some visual tokens of an image."""
        found: FloatArray = self._backend.download(image.embeds)[cells]
        return found

    def attention(self, attention: Tensor, entry: Entry) -> FloatArray:
        """Returns the (maps, entered) shares of the last row's attention.

        Args:
            attention: (maps, columns) as the lower graph gives it, scores or their log-softmax: large negative
                numbers where there is no key, so that they take no share.
            entry: the prompt.
        """
        logs = self._backend.download(attention)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares: FloatArray = (weights / weights.sum(axis=1, keepdims=True))[:, entry.visual_rows]
        return shares

    def hidden(self, hidden: Tensor, entry: Entry) -> FloatArray:
        """Returns the (entered, hidden) states of the visual tokens, of (1, rows, hidden)."""
        states: FloatArray = self._backend.download(hidden)[0, entry.visual_rows]
        return states

    def _shared(self, pruner: Pruner, entry: Entry) -> dict[str, Array]:
        shared: dict[str, Array] = {}
        if "text" in pruner.needs:
            shared["text"] = self._embedding.rows(question_ids(entry))
        if "weights" in pruner.needs:
            if pruner.name not in self._weights:
                self._weights[pruner.name] = read_weights(self._bundle, pruner)
            shared |= {f"weights.{name}": array for name, array in self._weights[pruner.name].items()}
        return shared


def question_ids(entry: Entry) -> IntArray:
    """Returns the ids behind the last visual token, or all that are not visual tokens when it is the last."""
    behind = entry.ids[int(entry.visual_rows[-1]) + 1 :]
    return behind if len(behind) else np.delete(entry.ids, entry.visual_rows)
