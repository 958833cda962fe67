"""Asks every question every way, in turn and in an order that changes from question to question."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np

from benchmarks.accuracy.comparison.asking import NO_PICTURE, Asker, Picture, Reply
from benchmarks.accuracy.comparison.results import Results
from benchmarks.accuracy.comparison.ways import BLIND, DROPPED, GLIMPSE, ORACLE, RANDOM_AT_SPLIT, Way
from glimpse_models.pocket.scenes.heldout import Sample
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_runtime import Session
from glimpse_runtime.arrays import BoolArray


def measure(
    session: Session,
    ways: Sequence[Way],
    samples: Iterable[Sample],
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Results:
    """Returns the replies.

    Args:
        session: loaded with ``scene_cache_bytes=0``.
        ways: what to compare.
        samples: the questions, those of one scene together.
        seed: of the order and of random masks.
        progress: called with the number of questions that are done.
    """
    asker, rng, results = Asker(session), np.random.default_rng(seed), Results(replies={way: [] for way in ways})
    for scene, group in groupby(samples, key=lambda sample: sample.scene):
        picture = None
        for sample in group:
            if not results.questions:  # the first run of anything takes longer
                ask_all(asker, asker.look(sample.image), sample, ways, rng)
            if picture is None:
                picture = asker.look(sample.image)
            replies = ask_all(asker, picture, sample, ways, rng, len(results.questions))
            results.scenes.append(scene)
            results.questions.append(sample.question)
            results.visual_tokens.append(picture.visual_tokens)
            results.image_ms.append(picture.spent_ms)
            for way in ways:
                results.replies[way].append(replies[way])
            progress(len(results.questions))
    return results


def ask_all(
    asker: Asker, picture: Picture, sample: Sample, ways: Sequence[Way], rng: np.random.Generator, number: int = 0
) -> dict[Way, Reply]:
    """Asks one question every way, in an order drawn from ``rng``; ``number`` seeds methods that draw."""
    replies: dict[Way, Reply] = {}
    for way in shuffled(ways, rng):
        mask = mask_of(way, picture, sample, replies, rng)
        shown = NO_PICTURE if way == BLIND else picture
        replies[way] = asker.ask(shown, sample.question.text, way.pruning(number, mask))
    return replies


def shuffled(ways: Sequence[Way], rng: np.random.Generator) -> list[Way]:
    """Returns the ways in a random order, but the glimpse before what keeps as many tokens as it did."""
    order = [ways[index] for index in rng.permutation(len(ways))]
    if RANDOM_AT_SPLIT in order:
        first, second = sorted(map(order.index, (GLIMPSE, RANDOM_AT_SPLIT)))
        order[first], order[second] = GLIMPSE, RANDOM_AT_SPLIT
    return order


def mask_of(
    way: Way, picture: Picture, sample: Sample, replies: Mapping[Way, Reply], rng: np.random.Generator
) -> BoolArray | None:
    """Returns the (rows, columns) tokens to keep, of the ways that are a mask."""
    if way == ORACLE:
        return relevant_tokens(sample.question.boxes, sample.image.size, *picture.grid)
    if way == DROPPED:
        return np.zeros(picture.grid, np.bool_)
    if way == RANDOM_AT_SPLIT:
        mask = np.arange(picture.visual_tokens) < replies[GLIMPSE].kept
        return rng.permutation(mask).reshape(picture.grid)
    return None
