"""From logits to the next token: greedy, or drawn after the usual filters; with a seam for constraints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import DoubleArray, FloatArray, IntArray
from glimpse_runtime.checked import real, shown, texts, whole
from glimpse_runtime.errors import InputError

_GREEDY_BELOW = 1e-5

# Smallest and largest value, and whether the smallest is too small itself. A penalty beyond this range takes logits
# out of float32's.
_RANGES = {
    "temperature": (0.0, 1e6, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (1e-3, 1e3, False),
}

LogitsProcessor = Callable[[Sequence[int], FloatArray], FloatArray]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when an answer stops. The defaults are greedy.

    Attributes:
        temperature: below 1e-5 takes the best token; otherwise logits are divided by it before drawing.
        top_k: draw from the best k tokens; 0 is no limit.
        top_p: draw from the smallest set of best tokens with at least this probability.
        min_p: draw from tokens with at least this share of the best one's probability.
        repetition_penalty: divides (or for negative logits multiplies) the logits of tokens that have occurred,
            prompt included; None is the checkpoint's own, 1 is none.
        seed: of the random numbers; None is a fresh one for each request.
        stop: texts that end the answer; they are not part of it.
        processors: called in order with the tokens so far (prompt included) and the (vocab,) float32 logits, which
            they may change and must return; for example to force a grammar.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    processors: tuple[LogitsProcessor, ...] = ()

    def __post_init__(self) -> None:
        """Refuses values that can never be meant.

        Raises:
            InputError: a value is out of its range.
        """
        for name, (least, most, above) in _RANGES.items():
            if getattr(self, name) is not None:
                self._set(name, real(name, getattr(self, name), least, most, above))
        for name in ("temperature", "top_p", "min_p"):
            if getattr(self, name) is None:
                raise InputError(f"{name} must be a number, found None")
        self._set("top_k", whole("top_k", self.top_k, 0))
        if self.seed is not None:
            self._set("seed", whole("seed", self.seed, 0))
        self._set("stop", texts("stop", self.stop))
        processors = self.processors
        if not isinstance(processors, (tuple, list)) or not all(map(callable, processors)):
            raise InputError(f"processors must be a tuple of functions, found {shown(processors)}")
        self._set("processors", tuple(processors))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, options: Sampling, prompt: IntArray, repetition_penalty: float) -> None:
        """Starts with the tokens of the prompt.

        Args:
            options: the request's options.
            prompt: (tokens,) ids.
            repetition_penalty: the bundle's own, for a request that names none.
        """
        chosen = options.repetition_penalty
        self._penalty = np.float32(repetition_penalty if chosen is None else chosen)
        self._options = options
        self._tokens: list[int] = prompt.tolist()
        self._seen = np.unique(prompt) if self._penalty != 1 else prompt[:0]
        self._random = np.random.default_rng(options.seed) if options.temperature >= _GREEDY_BELOW else None

    def choose(self, logits: FloatArray) -> int:
        """Returns the next token for (vocab,) float32 logits, and remembers it."""
        if len(self._seen):
            logits = logits.copy()
            seen = self._seen[self._seen < len(logits)]  # an image token may lie outside the vocabulary
            scores = logits[seen]
            logits[seen] = np.where(scores < 0, scores * self._penalty, scores / self._penalty)
        for processor in self._options.processors:
            logits = _processed(processor, self._tokens, logits)
        token = int(logits.argmax()) if self._random is None else self._draw(logits, self._random)
        self._tokens.append(token)
        if len(self._seen) and token not in self._seen:
            self._seen = np.append(self._seen, token)
        return token

    def _draw(self, logits: FloatArray, random: np.random.Generator) -> int:
        probability = filtered_probability(logits, self._options)
        return int(random.choice(len(probability), p=probability))


def _processed(processor: LogitsProcessor, tokens: Sequence[int], logits: FloatArray) -> FloatArray:
    """Returns what a caller's processor makes of logits; whatever else it gives is the caller's mistake."""
    found = np.asarray(processor(tokens, logits))
    if found.shape != logits.shape or found.dtype.kind != "f":
        raise InputError(
            f"a logits processor must return {logits.shape} float32 logits, gave {found.dtype} of shape {found.shape}"
        )
    if np.isnan(found).any() or not np.isfinite(found.max()):
        raise InputError("a logits processor gave NaN or infinite logits, or forbade every token")
    return found


def filtered_probability(logits: FloatArray, options: Sampling) -> DoubleArray:
    """Returns the (vocab,) float64 probabilities after temperature, top-k, top-p and min-p, in that order."""
    scaled = logits.astype(np.float64) / options.temperature
    if 0 < options.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -options.top_k)[-options.top_k]] = -np.inf
    probability = _softmax(scaled)
    if options.top_p < 1.0:
        best_first = np.argsort(-probability, kind="stable")
        before = np.cumsum(probability[best_first]) - probability[best_first]
        probability[best_first[before >= options.top_p]] = 0.0
    if options.min_p > 0.0:
        probability[probability < options.min_p * probability.max()] = 0.0
    normalised: DoubleArray = probability / probability.sum()
    return normalised


def _softmax(logits: DoubleArray) -> DoubleArray:
    weights = np.exp(logits - logits.max())
    probability: DoubleArray = weights / weights.sum()
    return probability
