"""From logits to the next token: greedy, or drawn after the usual filters; with a seam for constraints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.errors import InputError
from glimpse_runtime.types import DoubleArray, FloatArray

LogitsProcessor = Callable[[Sequence[int], FloatArray], FloatArray]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when an answer stops. The defaults are greedy.

    Attributes:
        temperature: 0 takes the best token; otherwise logits are divided by it before drawing.
        top_k: draw from the best k tokens; 0 is no limit.
        top_p: draw from the smallest set of best tokens with at least this probability.
        min_p: draw from tokens with at least this share of the best one's probability.
        repetition_penalty: divides (or for negative logits multiplies) the logits of tokens that have occurred,
            prompt included.
        seed: of the random numbers; None is a fresh one for each request.
        stop: texts that end the answer; they are not part of it.
        processors: called in order with the tokens so far (prompt included) and the (vocab,) float32 logits, which
            they may change and must return; for example to force a grammar.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    processors: tuple[LogitsProcessor, ...] = ()

    def __post_init__(self) -> None:
        """Refuses values that can never be meant.

        Raises:
            InputError: a value is out of its range.
        """
        limits = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, good in limits.items():
            if not good:
                raise InputError(f"{name} = {getattr(self, name)} is out of range; see Sampling")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise InputError("stop must be a tuple of non-empty texts")


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, options: Sampling, prompt: Sequence[int]) -> None:
        """Starts with the tokens of the prompt."""
        self._options = options
        self._tokens = [int(token) for token in prompt]
        self._random = np.random.default_rng(options.seed) if options.temperature else None

    def choose(self, logits: FloatArray) -> int:
        """Returns the next token for (vocab,) float32 logits, and remembers it."""
        options = self._options
        if options.repetition_penalty != 1.0:
            seen = np.unique(self._tokens)
            logits = logits.copy()
            scores = logits[seen]
            penalty = np.float32(options.repetition_penalty)
            logits[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        for processor in options.processors:
            logits = processor(self._tokens, logits)
        token = int(logits.argmax()) if self._random is None else self._draw(logits, self._random)
        self._tokens.append(token)
        return token

    def _draw(self, logits: FloatArray, random: np.random.Generator) -> int:
        probability = filtered_probability(logits, self._options)
        return int(random.choice(len(probability), p=probability))


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
