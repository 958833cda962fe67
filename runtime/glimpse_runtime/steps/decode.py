"""One decode step with everything bound once: only numbers change between steps."""

from collections.abc import Callable, Mapping

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle.embedding import EmbeddingTable
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.inputs.rope import TextRope
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.steps.cache import KVCache


class Stepper:
    """Feeds one token through the lower and upper layers.

    The hidden state that the lower graph writes is the array that the upper graph reads.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        embedding: EmbeddingTable,
        rope: TextRope,
        engines: tuple[Engine, Engine],
        caches: tuple[KVCache, KVCache],
    ) -> None:
        """Binds the arrays of a step to both graphs."""
        text = manifest.text
        self._embedding = embedding
        self._rope = rope
        self._caches = caches
        self._hidden_in = np.zeros((1, 1, text.hidden_size), np.float32)
        self._middle = backend.allocate((1, 1, text.hidden_size), "float32")
        self._logits = np.zeros((1, text.vocab_size), np.float32)
        self._cos, self._sin = (np.zeros((1, text.head_dim // 2), np.float32) for _ in range(2))
        self._counts = tuple(_counts() for _ in caches)
        gate = np.zeros((1, 1, manifest.glimpse.length), np.float32)
        self._run_lower = self._prepare(
            engines[0], 0, {"hidden_in": self._hidden_in, "glimpse_gate": gate}, {"hidden_out": self._middle}
        )
        self._run_upper = self._prepare(engines[1], 1, {"hidden_in": self._middle}, {"logits": self._logits})

    def __call__(self, token: int, position: IntArray, interrupt: Interrupt) -> FloatArray:
        """Runs one token at a (3,) position; returns the (vocab,) logits, valid until the next call."""
        self._hidden_in[0] = self._embedding.rows(np.array([token]))
        self._cos[:], self._sin[:] = self._rope(position[:, None])
        for cache, counts in zip(self._caches, self._counts, strict=True):
            counts["seqlens_k"][0] = counts["slots"][0] = cache.length
            counts["total_sequence_length"][...] = counts["scored_columns"][0] = cache.length + 1
        self._run_lower(interrupt)
        self._run_upper(interrupt)
        for cache in self._caches:
            cache.length += 1
        logits: FloatArray = self._logits[0]
        return logits

    def _prepare(
        self, engine: Engine, index: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> Callable[[Interrupt], None]:
        return engine.prepare({**inputs, "cos": self._cos, "sin": self._sin, **self._counts[index]}, outputs)


def _counts() -> dict[str, Array]:
    """How long a cache is, in the forms that graphs take; ``slots`` are the rows of a step."""
    return {
        "seqlens_k": np.zeros(1, np.int32),
        "total_sequence_length": np.zeros((), np.int32),
        "scored_columns": np.zeros(1, np.int64),
        "slots": np.zeros(1, np.int64),
    }
