"""Greedy answers on both sides: the reference's own, and the bundle's next words after the reference's.

The bundle is fed the reference's tokens, so that one early near-tie does not void the comparison of the rest.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from glimpse_export.certify.checks.decoder import DecoderCheck, State
from glimpse_export.certify.checks.head import HeadCheck
from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference.base import Cache, Layer, Reference
from glimpse_export.certify.trials.inputs import Inputs
from glimpse_export.certify.trials.packed import Packed
from glimpse_export.certify.written.cuts import FAST
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_runtime.arrays import BoolArray, FloatArray
from glimpse_runtime.bundle.embedding import EmbeddingTable

STAGE = "decode"
# The best word counts as decided when it leads the next by so many times the allowed error of a logit.
_CLEAR = 4.0


@dataclass
class Answers:
    """The answers to all prompts, and what both sides keep to go on with them.

    Attributes:
        steps: tokens of every answer.
        cache: the reference's keys and values; None when one token is all.
        states: the bundle's KV cache, one per prompt.
    """

    steps: int
    cache: Cache | None
    states: list[State]
    packed: Packed = field(init=False)
    is_prompt: BoolArray = field(init=False)
    stay: BoolArray = field(init=False)
    logits: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)
    _visual: BoolArray = field(init=False)
    _kept: Packed = field(init=False)

    @classmethod
    def of(cls, inputs: Inputs, steps: int) -> "Answers":
        """Starts answers of some length."""
        return cls(steps, Cache() if steps > 1 else None, [{} for _ in inputs.trials])

    def begin(self, packed: Packed, visual: BoolArray, is_glimpse: BoolArray) -> None:
        """Takes the rows of all prompts, and which are visual tokens and which the glimpse's."""
        self.packed, self._visual, self.is_prompt = packed, visual, ~is_glimpse

    def prune(self, kept: list[BoolArray]) -> Packed:
        """Drops glimpse rows and pruned visual tokens from rows and caches; returns what is left."""
        self.stay = self.is_prompt.copy()
        self.stay[self._visual] &= np.concatenate(kept)
        self._kept = self.packed.keep(self.stay)
        if self.cache is not None:
            for layer in list(self.cache.rows):
                self.cache.keep(layer, torch.from_numpy(self.stay))
        for prompt, state in enumerate(self.states):
            keep = self.stay[self.packed.of(prompt)]
            for name in state:
                state[name] = np.ascontiguousarray(state[name][:, :, keep])
        return self._kept

    def first(self, ours: FloatArray, reference: FloatArray) -> None:
        """Takes the logits of every answer's first token, (prompts, vocabulary)."""
        self.logits.append((ours, reference))

    def follow(self) -> Packed:
        """Returns the rows of each answer's next tokens, all that are fed back, (axes, prompts * (steps - 1))."""
        positions = []
        for prompt in range(self._kept.prompts):
            last = self._kept.positions[:, self._kept.of(prompt)][:, -1:]
            positions.append(last + 1 + np.arange(self.steps - 1))
        return Packed.join(positions)

    @property
    def owners(self) -> Packed:
        """The rows that were kept."""
        return self._kept


def check_answers(
    answers: Answers,
    base: Reference,
    parts: tuple[DecoderCheck, DecoderCheck],
    head: HeadCheck,
    weights: WeightCheck,
    table: EmbeddingTable,
    recorder: Recorder,
    bounds: Bounds,
) -> None:
    """Decodes the rest of the answers, and compares logits and words of all steps."""
    if answers.steps > 1:
        tokens = _reference_steps(answers, base, head, weights)
        later = _bundle_steps(answers, tokens, parts, head, table)
        answers.logits = [
            answers.logits[0],
            *((mine, reference) for mine, (_, reference) in zip(later, answers.logits[1:], strict=True)),
        ]
    compared = agreed = clear = differ = 0
    for step, (ours, reference) in enumerate(answers.logits):
        recorder.finite(STAGE, None, ours)
        worst = max(measure.relative_l2(*pair) for pair in zip(ours, reference, strict=True))
        stage = STAGE if step else "upper"
        recorder.at_most(stage, None, "logits_relative_l2", worst, bounds.logits)
        recorder.at_least(stage, None, "logits_cosine", measure.cosine(ours, reference), None)
        for mine, theirs in zip(ours, reference, strict=True):
            second, first = np.sort(theirs)[-2:]
            decided = bounds.logits is not None and first - second > _CLEAR * bounds.logits * measure.rms(theirs)
            same = int(mine.argmax()) == int(theirs.argmax())
            compared, agreed, clear = compared + 1, agreed + same, clear + bool(decided)
            differ += bool(decided) and not same
    recorder.at_least(STAGE, None, "tokens", compared, None)
    recorder.at_least(STAGE, None, "equal_tokens", agreed, None)
    recorder.at_least(STAGE, None, "decided_tokens", clear, None)
    recorder.at_most(STAGE, None, "different_decided_tokens", differ, 0)


def _reference_steps(answers: Answers, base: Reference, head: HeadCheck, weights: WeightCheck) -> list[list[int]]:
    """Lets the reference answer, all prompts together, so that a step reads the weights once; returns its tokens."""
    follow, kept = answers.follow(), answers.owners
    count, cache = kept.prompts, answers.cache
    assert cache is not None
    past = kept.owner
    tokens = [[int(row.argmax())] for row in answers.logits[0][1]]

    def visit(index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        return layer(hidden, weights.originals(layer.names), cache)

    for step in range(answers.steps - 1):
        now = Packed(np.arange(count), np.stack([follow.positions[:, follow.of(p)][:, step] for p in range(count)], 1))
        entering = head.embed(np.array([answer[-1] for answer in tokens]))
        mask = now.mask(past)
        out = base.read(entering, torch.from_numpy(now.positions), mask, range(base.layers), visit)
        logits = head.reference_logits(out)
        answers.logits.append((logits, logits))
        past = np.concatenate([past, now.owner])
        for answer, row in zip(tokens, logits, strict=True):
            answer.append(int(row.argmax()))
    return tokens


def _bundle_steps(
    answers: Answers,
    tokens: list[list[int]],
    parts: tuple[DecoderCheck, DecoderCheck],
    head: HeadCheck,
    table: EmbeddingTable,
) -> list[FloatArray]:
    """Feeds the bundle the reference's tokens; returns (prompts, vocabulary) logits of every step after the first."""
    packed = answers.follow()
    hidden = [table.rows(np.array(answer[:-1])) for answer in tokens]
    for part in parts:
        part.start(packed, hidden, None, None)
        part.watch(np.zeros(len(packed.owner), np.bool_))
        for layer in part.layers:
            hidden, _ = part.run(layer, hidden, packed, FAST, answers.states)
    return [head.logits([part[: step + 1] for part in hidden], FAST) for step in range(answers.steps - 1)]
