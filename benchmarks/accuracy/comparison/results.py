"""What was measured, question by question, and its figures."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.accuracy.comparison.asking import Reply
from benchmarks.accuracy.comparison.intervals import Bootstrap
from benchmarks.accuracy.comparison.ways import REFERENCE, UNPRUNED, Way
from glimpse_models.pocket.scenes.questions import TYPES, Question

Figures = dict[str, object]


@dataclass
class Results:
    """Replies to the same questions under every way, in the order of the questions.

    Attributes:
        scenes: the scene of each question.
        questions: the questions.
        visual_tokens: of each question's image.
        image_ms: reading and encoding of each question's image.
        replies: by way.
    """

    scenes: list[int] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    visual_tokens: list[int] = field(default_factory=list)
    image_ms: list[float] = field(default_factory=list)
    replies: dict[Way, list[Reply]] = field(default_factory=dict)

    def right(self, way: Way) -> list[bool]:
        """Returns which questions were answered exactly."""
        pairs = zip(self.replies[way], self.questions, strict=True)
        return [reply.text == question.answer for reply, question in pairs]

    def rows(self, seed: int) -> list[Figures]:
        """Returns the figures of every way; ``seed`` is that of the bootstrap."""
        bootstrap = Bootstrap(self.scenes, seed)
        return [self._row(way, bootstrap) for way in self.replies]

    def most_frequent_answer(self) -> Figures:
        """Returns how often a guess is right that always gives the most frequent answer of the question's type."""
        best = {
            name: Counter(q.answer for q in self.questions if q.type == name).most_common(1)[0][0]
            for name in {question.type for question in self.questions}
        }
        return self._exact_match([question.answer == best[question.type] for question in self.questions])

    def typical(self, values: Sequence[float | None]) -> float | None:
        """Returns the median of each image size's questions, averaged over all questions that have a value.

        Sizes come in turn, so the median of everything would fall into the gap between two of them, where a little
        noise moves it from one to the other.
        """
        by_size: dict[int, list[float]] = {}
        for value, size in zip(values, self.visual_tokens, strict=True):
            if value is not None:
                by_size.setdefault(size, []).append(value)
        medians = [statistics.median(own) for own in by_size.values() for _ in own]
        return statistics.fmean(medians) if medians else None

    def _row(self, way: Way, bootstrap: Bootstrap) -> Figures:
        replies, right = self.replies[way], np.array(self.right(way), float)
        kept = [reply.kept for reply in replies]
        difference = right - np.array(self.right(UNPRUNED), float)
        figures: Figures = {
            "name": way.name,
            "kind": way.kind,
            "series": way.series,
            "method": way.method,
            "keep": way.keep,
            "pre": way.pre,
            "pre_keep": way.pre_keep,
            **self._exact_match(right.tolist()),
            "exact_match_interval": bootstrap.interval(right),
            "difference": float(difference.mean()),
            "difference_interval": bootstrap.interval(difference),
            "kept_share": float(np.mean(np.array(kept) / np.array(self.visual_tokens))),
            "kept_share_of_all_tokens": sum(kept) / sum(self.visual_tokens),
            "prefill_ms": self.typical([reply.prefill_ms for reply in replies]),
            "ttft_ms": self.typical([reply.ttft_ms for reply in replies]),
            "decode_ms_per_token": self.typical([reply.decode_ms for reply in replies]),
            "kv_bytes": statistics.fmean(reply.kv_bytes for reply in replies),
            "kv_peak_bytes": statistics.fmean(reply.kv_peak_bytes for reply in replies),
        }
        if way.kind == REFERENCE:
            del figures["difference"], figures["difference_interval"]
        return figures

    def _exact_match(self, right: Sequence[float]) -> Figures:
        by_type = {
            name: [is_right for is_right, question in zip(right, self.questions, strict=True) if question.type == name]
            for name in TYPES
        }
        return {
            "exact_match": statistics.fmean(right),
            "exact_match_by_type": {name: statistics.fmean(own) for name, own in by_type.items() if own},
        }
