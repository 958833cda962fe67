"""The selection rule against a plain transcription of the paper's steps, and what it refuses."""

import math

import numpy as np
import pytest

from glimpse_runtime import Pruning, PruningError
from glimpse_runtime.bundle.manifest import PruningDefaults
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruners import PrunerInput, find
from glimpse_runtime.pruning.rule import Rule, check, flat_masks, keep_index, merge, per_image, probability, select

DEFAULTS = PruningDefaults(threshold=0.5, max_keep_ratio=0.3, min_keep=2, anchors=("tl",))


def by_hand(logits: list[float], rule: Rule, rows: int, columns: int) -> list[bool]:
    """The steps one by one on Python lists."""
    scores = [1 / (1 + math.exp(-x)) for x in logits]
    order = sorted(range(len(scores)), key=lambda i: -logits[i])
    keep = [score > rule.threshold for score in scores]
    if rule.max_keep_ratio is not None and sum(keep) / len(keep) > rule.max_keep_ratio:
        best = set(order[: int(rule.max_keep_ratio * len(keep))])
        keep = [i in best for i in range(len(keep))]
    if rule.min_keep is not None and sum(keep) < rule.min_keep:
        for i in order[: rule.min_keep]:
            keep[i] = True
    corners = {"tl": 0, "tr": columns - 1, "bl": (rows - 1) * columns, "br": rows * columns - 1}
    for anchor in rule.anchors:
        keep[corners[anchor]] = True
    return keep


@pytest.mark.parametrize("seed", range(40))
def test_select_equals_the_steps_done_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 9, 2)
    logits = (rng.standard_normal(rows * columns) * 3 - 1).astype(np.float32)
    anchors = tuple(rng.permutation(["tl", "tr", "bl", "br"])[: rng.integers(0, 5)].tolist())
    ratio = None if rng.random() < 0.3 else float(rng.random())
    minimum = None if rng.random() < 0.3 else int(rng.integers(0, rows * columns + 1))
    rule = Rule(float(rng.random()), ratio, minimum, anchors)
    found = select(logits, rule, [Grid(2 * rows, 2 * columns, 2)])
    assert found.tolist() == by_hand(logits.tolist(), rule, rows, columns)


def test_threshold_is_strict_and_cap_truncates() -> None:
    grid = [Grid(2, 20, 2)]
    logits = np.zeros(10, np.float32)
    assert not select(logits, Rule(0.5, None, None, ()), grid).any()
    rising = np.arange(10, dtype=np.float32)
    kept = select(rising, Rule(0.5, 0.29, None, ()), grid)
    assert np.flatnonzero(kept).tolist() == [8, 9]


def test_cap_counts_all_images_together() -> None:
    grids = [Grid(2, 8, 2), Grid(2, 8, 2)]
    logits = np.array([9, 8, 7, 6, 1, 1, 1, 1], np.float32)
    assert select(logits, Rule(0.5, 0.5, None, ()), grids).tolist() == [True] * 4 + [False] * 4


def test_request_overrides_defaults_and_a_mask_takes_none() -> None:
    assert merge(Pruning(), DEFAULTS) == Rule(0.5, 0.3, 2, ("tl",))
    assert merge(Pruning(threshold=0.1, max_keep_ratio=1.0, min_keep=0, anchors=()), DEFAULTS) == Rule(0.1, 1.0, 0, ())
    masked = merge(Pruning(keep_masks=[np.zeros((2, 2), bool)]), DEFAULTS)
    assert masked == Rule(0.5, None, None, ())


def test_keep_mask_is_taken_as_given() -> None:
    grids = [Grid(4, 6, 2), Grid(2, 2, 2)]
    masks = [np.array([[1, 0, 1], [0, 0, 1]], bool), np.array([[False]])]
    flat = flat_masks(masks, grids)
    given = PrunerInput(0, 1, len(flat), np.arange(len(flat)), np.zeros((3, len(flat)), int), 0, 0, {"keep_mask": flat})
    kept = select(find("oracle").choose(given), merge(Pruning(keep_masks=masks), DEFAULTS), grids)
    for mask, found in zip(masks, per_image(kept, grids), strict=True):
        assert np.array_equal(mask, found)


def test_keep_index_keeps_all_text_in_order() -> None:
    is_image = np.array([False, True, True, False, True, False])
    assert keep_index(np.array([False, True, False]), is_image).tolist() == [0, 2, 3, 5]


def test_probability_does_not_overflow() -> None:
    logits = np.array([-np.inf, -1e4, -1, 0, 1, 1e4, np.inf], np.float32)
    assert probability(logits).dtype == np.float32
    assert probability(logits)[[0, 1, 3, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]


def test_impossible_rules_are_refused_before_compute() -> None:
    with pytest.raises(PruningError, match="only 4 visual tokens"):
        check(Rule(0.5, None, 5, ()), [Grid(4, 4, 2)])
    with pytest.raises(PruningError, match="anchors work with one image"):
        check(Rule(0.5, None, None, ("tl",)), [Grid(4, 4, 2)] * 2)
    with pytest.raises(PruningError, match="2 keep masks for 1 images"):
        flat_masks([np.zeros((2, 2))] * 2, [Grid(4, 4, 2)])
    with pytest.raises(PruningError, match=r"shape \(3, 2\)"):
        flat_masks([np.zeros((3, 2))], [Grid(4, 4, 2)])


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"enabled": False, "min_keep": 1},
        {"keep_masks": [], "threshold": 0.5},
        {"threshold": float("nan")},
        {"max_keep_ratio": -0.1},
        {"min_keep": -1},
        {"anchors": ("xx",)},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PruningError):
        Pruning(**options)  # type: ignore[arg-type]
