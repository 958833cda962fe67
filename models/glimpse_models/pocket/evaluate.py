"""Measures the deployed model: ``python -m glimpse_models.pocket.evaluate [--bundle DIR]``.

It asks the runtime held-out questions without pruning, with the default threshold and with the paper's cap, and
compares with what bounds pruning: the tokens under the true boxes, as many tokens chosen at random, none at all, and no
image at all. ``--pruner``, ``--keep``, ``--pre`` and ``--pre-keep`` add another way of pruning.

The words are words that training never showed; those that it did show are a column of their own, not part of ``all``.
``point`` is grounding: how often the token that scores highest lies on what the question is about.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glimpse_models.pocket.model.config import PAPER_CAP
from glimpse_models.pocket.scenes.heldout import Sample, known_words, samples
from glimpse_models.pocket.scenes.questions import TYPES
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_models.pocket.scenes.texts import SPLITS
from glimpse_runtime import PruneReport, Pruning, Session, load
from glimpse_runtime.pruners import find

MAX_NEW_TOKENS = 8
KNOWN_WORD = "known"
COLUMNS = (*TYPES, KNOWN_WORD)
"""Question types, and words that training showed."""

Mask = npt.NDArray[np.bool_]


@dataclass
class Result:
    """Answers under one way of pruning."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    kept: int = 0
    visual: int = 0
    shares: list[float] = field(default_factory=list)
    pointed: list[bool] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return exact match over all and per type, and how much was pruned."""
        every = [answer for name in TYPES for answer in self.right[name]]
        return {
            "questions": len(every),
            "exact_match": mean(every),
            "exact_match_by_type": {name: mean(self.right[name]) for name in COLUMNS if self.right[name]},
            "pruned_share": 1 - mean(self.shares) if self.shares else None,
            "pruned_share_of_all_tokens": 1 - self.kept / self.visual if self.visual else None,
            "pointed": mean(self.pointed) if self.pointed else None,
        }


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")


def least_kept(method: str) -> int | None:
    """Return the ``min_keep`` to measure a method with: a fixed share is that share, whatever the bundle's least."""
    return None if find(method).adaptive else 1


class Evaluation:
    """Asks every question in every way."""

    def __init__(self, session: Session, seed: int, other: Pruning | None = None) -> None:
        """Use an open session; ``seed`` draws the random masks, ``other`` is one more way of pruning."""
        self.session = session
        self.other = other
        self.random = np.random.default_rng(seed)
        self.results: dict[str, Result] = defaultdict(Result)

    def add(self, sample: Sample) -> None:
        """Ask one question without pruning, with it, and under what bounds it."""
        whole = self.ask("unpruned", sample, Pruning(enabled=False))
        (kept,) = self.ask("pruned", sample, Pruning()).keep_masks
        self.ask(f"cap {PAPER_CAP}", sample, Pruning(max_keep_ratio=PAPER_CAP))
        (every,) = whole.keep_masks
        masks = {
            "boxes": relevant_tokens(sample.question.boxes, sample.image.size, *every.shape),
            "random": self._shuffled(kept),
            "none": np.zeros_like(kept),
        }
        for name, mask in masks.items():
            self.ask(name, sample, Pruning(keep_masks=[mask]))
        self.ask("blind", sample, Pruning(enabled=False), seeing=False)
        if self.other is not None:
            self.ask(_name(self.other), sample, self.other)

    def add_known_word(self, sample: Sample) -> None:
        """Ask for a word that training showed, without pruning and with it."""
        self.ask("unpruned", sample, Pruning(enabled=False), KNOWN_WORD)
        self.ask("pruned", sample, Pruning(), KNOWN_WORD)
        self.ask(f"cap {PAPER_CAP}", sample, Pruning(max_keep_ratio=PAPER_CAP), KNOWN_WORD)

    def ask(
        self, name: str, sample: Sample, pruning: Pruning, column: str | None = None, seeing: bool = True
    ) -> PruneReport:
        """Ask one question one way.

        Args:
            name: Of the way, in ``results``.
            sample: The question.
            pruning: The way.
            column: Where to note the answer (default the question's type).
            seeing: False shows no image.

        Returns:
            What pruning did.
        """
        images = sample.image if seeing else ()
        answer = self.session.ask(images, sample.question.text, pruning=pruning, max_new_tokens=MAX_NEW_TOKENS)
        result, report = self.results[name], answer.pruning
        result.right[column or sample.question.type].append(answer.text.strip() == sample.question.answer)
        if column is None and seeing:
            kept = report.kept if pruning.enabled else report.total
            result.kept += kept
            result.visual += report.total
            result.shares.append(kept / report.total)
            if report.scores and sample.question.boxes:
                (scores,) = report.scores
                relevant = relevant_tokens(sample.question.boxes, sample.image.size, *scores.shape)
                result.pointed.append(bool(relevant.reshape(-1)[scores.argmax()]))
        return report

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Return what was found by way; see ``Result.summary``."""
        return {name: result.summary() for name, result in self.results.items()}

    def _shuffled(self, mask: Mask) -> Mask:
        return self.random.permutation(mask.reshape(-1)).reshape(mask.shape)


def _name(pruning: Pruning) -> str:
    """Return what to call a way of pruning."""
    keep = "" if pruning.max_keep_ratio is None else f" {pruning.max_keep_ratio:g}"
    first = "" if pruning.pre is None else f"{pruning.pre} {pruning.pre_keep:g}, "
    return f"{first}{pruning.method}{keep}"


def evaluate(
    session: Session,
    count: int,
    seed: int,
    split: Any = "test",
    progress: bool = False,
    other: Pruning | None = None,
) -> Evaluation:
    """Ask ``count`` held-out questions."""
    evaluation = Evaluation(session, seed, other)
    for sample in known_words(max(1, count // len(TYPES)), seed, split):
        evaluation.add_known_word(sample)
    for index, sample in enumerate(samples(count, seed, split), 1):
        evaluation.add(sample)
        if progress:
            print(f"\r{index}/{count}", end="" if index < count else "\n", file=sys.stderr, flush=True)
    return evaluation


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """Return the summaries as a text table."""
    width = max(10, *map(len, summaries))
    lines = [" ".join([f"{'':{width}s}", *(f"{name:>7s}" for name in ("all", *COLUMNS, "point", "pruned"))])]
    for name, summary in summaries.items():
        by_type = [summary["exact_match_by_type"].get(kind) for kind in COLUMNS]
        figures = [summary["exact_match"], *by_type, summary["pointed"], summary["pruned_share"]]
        lines.append(
            " ".join(
                [f"{name:{width}s}", *(f"{'-':>7s}" if figure is None else f"{figure:7.3f}" for figure in figures)]
            )
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.evaluate", description=__doc__)
    parser.add_argument("--samples", type=int, default=1008, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    parser.add_argument("--bundle", help="bundle folder (default: the packaged pocket bundle)")
    parser.add_argument("--pruner", help="another method")
    parser.add_argument("--keep", type=float, help="its max_keep_ratio")
    parser.add_argument("--pre", help="a first stage before layer 0")
    parser.add_argument("--pre-keep", type=float, help="the share it keeps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    other = None
    if any(value is not None for value in (options.pruner, options.keep, options.pre, options.pre_keep)):
        method = options.pruner or "glimpse"
        other = Pruning(
            max_keep_ratio=options.keep,
            min_keep=least_kept(method),
            method=method,
            pre=options.pre,
            pre_keep=options.pre_keep,
        )
    with load(options.bundle) as session:
        evaluation = evaluate(session, options.samples, options.seed, options.split, sys.stderr.isatty(), other)
    summaries = evaluation.summaries()
    if options.json:
        print(json.dumps({"split": options.split, "seed": options.seed, "results": summaries}, indent=2))
    else:
        print(table(summaries))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
