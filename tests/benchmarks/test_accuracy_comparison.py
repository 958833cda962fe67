# ruff: noqa: E402
"""What the accuracy benchmark compares, and how sure it is of a difference."""

import itertools
import random
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

for package in ("onnxruntime", "skimage", "sklearn", "matplotlib", "onnx_ir", "torch"):
    pytest.importorskip(package)

from PIL import Image

from benchmarks.accuracy import accuracy
from benchmarks.accuracy.comparison import precisions, ways
from benchmarks.accuracy.comparison.asking import Reply
from benchmarks.accuracy.comparison.intervals import Bootstrap
from benchmarks.accuracy.comparison.measure import shuffled
from benchmarks.accuracy.comparison.results import Results
from benchmarks.accuracy.comparison.ways import GLIMPSE, METHOD, RANDOM_AT_SPLIT, TWO_STAGE, UNPRUNED, Way
from glimpse_models.pocket.scenes.questions import Question
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_runtime import Pruning, PruningError, Session, load
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.pruners import BUILT_IN, weights_file
from glimpse_runtime.steps.vision import RECEIVED


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with load(scene_cache_bytes=0) as vlm:
        yield vlm


def test_interval_is_that_of_all_possible_draws_of_scenes() -> None:
    scenes = [7, 7, 7, 3, 3, 9, 9, 9, 9]
    values = [1, 0, 1, -1, 0, 0, 0, 1, 0]
    by_scene = {scene: [v for s, v in zip(scenes, values, strict=True) if s == scene] for scene in set(scenes)}
    means = sorted(
        Fraction(sum(sum(by_scene[s]) for s in drawn), sum(len(by_scene[s]) for s in drawn))
        for drawn in itertools.product(by_scene, repeat=3)
    )
    # Of 27 equally likely draws each end of the 95 % interval cuts off less than one.
    assert Bootstrap(scenes, seed=0).interval(values) == (float(means[0]), float(means[-1]))
    low, high = Bootstrap(scenes, seed=0, resamples=20000).interval(values)
    assert (low, high) == (float(means[0]), float(means[-1]))


def test_interval_of_many_scenes_is_that_of_an_independent_bootstrap() -> None:
    draw = random.Random(1)
    groups = [[draw.random() for _ in range(draw.randint(1, 7))] for _ in range(40)]
    means = []
    for _ in range(4000):
        drawn = [value for _ in groups for value in draw.choice(groups)]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    scenes = [index for index, group in enumerate(groups) for _ in group]
    low, high = Bootstrap(scenes, seed=0, resamples=4000).interval([v for group in groups for v in group])
    assert low == pytest.approx(means[100], abs=0.006)
    assert high == pytest.approx(means[-100], abs=0.006)


def test_draws_are_of_scenes_and_pairs_stay_together() -> None:
    one_scene = Bootstrap([4] * 10, seed=0)
    assert one_scene.interval([1, 0] * 5) == (0.5, 0.5)
    scenes = list(range(50))
    right = np.random.default_rng(0).random(50) < 0.5
    worse = right.copy()
    worse[np.flatnonzero(right)[0]] = False
    bootstrap = Bootstrap(scenes, seed=0)
    assert bootstrap.interval(right.astype(float) - right) == (0.0, 0.0)
    low, high = bootstrap.interval(worse.astype(float) - right)
    alone = bootstrap.interval(worse.astype(float))
    assert (low, high) == (pytest.approx(-0.06, abs=0.021), 0.0)
    assert alone[1] - alone[0] > 0.2


def test_figures_of_a_row() -> None:
    asked = (("digit", "3"), ("digit", "3"), ("shape", "star"))
    questions = [Question(kind, "?", answer, ()) for kind, answer in asked]

    def replies(texts: list[str], kept: list[int], decode_ms: list[float | None]) -> list[Reply]:
        columns = zip(texts, kept, decode_ms, [1.0, 9.0, 2.0], strict=True)
        return [
            Reply(text, count, None, ms, 10 * ms, step, 100 * count, 200 * count) for text, count, step, ms in columns
        ]

    dart = Way(METHOD, "dart", 0.5)
    all_tokens, half = replies(["3", "8", "star"], [100, 100, 400], [None] * 3), [50, 50, 100]
    results = Results([0, 0, 1], questions, [100, 100, 400])
    results.replies = {UNPRUNED: all_tokens, dart: replies(["8", "8", "star"], half, [None, 4.0, 6.0])}
    reference, row = results.rows(seed=0)
    assert "difference" not in reference
    assert reference["decode_ms_per_token"] is None
    assert reference["exact_match_by_type"] == {"digit": 0.5, "shape": 1.0}
    assert (row["name"], row["exact_match"], row["difference"]) == ("dart 0.5", 1 / 3, pytest.approx(-1 / 3))
    assert row["difference_interval"] == (-0.5, 0.0)
    assert row["kept_share"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert row["kept_share_of_all_tokens"] == pytest.approx(200 / 600)
    assert (row["prefill_ms"], row["ttft_ms"], row["decode_ms_per_token"]) == (4.0, 40.0, 5.0)
    assert (row["kv_bytes"], row["kv_peak_bytes"]) == (pytest.approx(20000 / 3), pytest.approx(40000 / 3))
    assert results.most_frequent_answer()["exact_match"] == 1.0


def test_times_are_medians_of_each_size() -> None:
    results = Results(visual_tokens=[64, 64, 64, 576, 576])
    assert results.typical([1.0, 2.0, 90.0, 50.0, 60.0]) == pytest.approx((3 * 2 + 2 * 55) / 5)
    assert results.typical([None, None, 1.0, None, 5.0]) == 3.0


def test_overlap_is_intersection_over_union() -> None:
    masks = [np.array(bits, bool) for bits in ([1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0])]
    others = [np.array(bits, bool) for bits in ([1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0])]
    found = precisions.overlap(masks, others)
    assert found["iou"] == pytest.approx((1 / 2 + 2 / 4 + 1) / 3)
    assert found["iou_of_all_tokens"] == pytest.approx(3 / 6)
    assert precisions.overlap(masks[2:], others[2:]) == {"iou": 1.0, "iou_of_all_tokens": 1.0}


@pytest.mark.parametrize("size", [(500, 350), (640, 480), (337, 901), (1333, 777), (448, 448), (20, 30)])
def test_boxes_mark_the_cells_whose_pixels_they_touch(size: tuple[int, int], session: Session) -> None:
    width, height = size
    rows, columns = open_family(session.bundle.manifest).grid(Image.new("RGB", size)).merged
    draw = random.Random(0)
    boxes = []
    for _ in range(3):
        left, top = draw.randrange(width - 8), draw.randrange(height - 8)
        boxes.append((left, top, draw.randint(left + 1, width), draw.randint(top + 1, height)))
    boxes += [(width - 7, height - 7, width, height), (width // 16, height // 16, width // 8, height // 4)]
    for some in ([], boxes[:1], boxes):
        expected = [
            [
                any(
                    left < Fraction((column + 1) * width, columns)
                    and right > Fraction(column * width, columns)
                    and top < Fraction((row + 1) * height, rows)
                    and bottom > Fraction(row * height, rows)
                    for left, top, right, bottom in some
                )
                for column in range(columns)
            ]
            for row in range(rows)
        ]
        assert relevant_tokens(some, size, rows, columns).tolist() == expected


def accept(pruning: Pruning) -> None:
    """A bundle that has everything."""


def names_of(chosen: list[Way]) -> list[str]:
    return [way.name for way in chosen]


def test_adaptive_methods_have_a_row_without_a_cap_and_floors_come_last() -> None:
    chosen, skipped = ways.choose(["glimpse", "none", "dart", "oracle"], [0.1, 0.5], [("dart", 0.25)], accept)
    assert names_of(chosen) == [
        "none",
        *("glimpse", "glimpse 0.1", "glimpse 0.5"),
        *("dart 0.1", "dart 0.5"),
        "oracle",
        *("dart 0.25 + glimpse", "dart 0.25 + glimpse 0.1"),
        *("blind", "dropped", "random-at-split"),
    ]
    assert skipped == {}
    assert Way(METHOD, "dart", 0.1).pruning(seed=3) == Pruning(method="dart", max_keep_ratio=0.1, min_keep=1, seed=3)
    assert GLIMPSE.pruning() == Pruning(max_keep_ratio=1.0)
    two = Way(TWO_STAGE, "glimpse", 0.1, "dart", 0.25).pruning()
    assert (two.pre, two.pre_keep, two.method, two.max_keep_ratio) == ("dart", 0.25, "glimpse", 0.1)


def test_all_passes_over_what_the_bundle_lacks_and_names_are_insisted_on(session: Session) -> None:
    check = accuracy.checker(session, "test", 0)
    manifest = session.bundle.manifest
    missing = {name for name in ("sdtp", "covipal") if weights_file(name) not in manifest.files}
    vision = manifest.stages_of(manifest.dialects[0])["vision"]
    missing |= {"visionzip"} - {"visionzip" for output in vision.outputs if output.name == RECEIVED}
    chosen, skipped = ways.choose(["all"], [0.2], [], check)
    assert set(skipped) == missing
    assert {way.method for way in chosen} == {"none", "blind", "dropped", "random-at-split", *BUILT_IN} - missing
    for name in missing:
        for words in ([name], ["all", name]):
            with pytest.raises(PruningError, match=name):
                ways.choose(words, [0.2], [], check)


def test_a_method_that_fails_is_passed_over_with_its_reason_or_an_error_when_named() -> None:
    def check(pruning: Pruning) -> None:
        if pruning.method == "uniform":
            raise PruningError("no weights for it")

    chosen, skipped = ways.choose(["all"], [0.2], [], check)
    assert skipped == {"uniform": "no weights for it"}
    assert "uniform 0.2" not in names_of(chosen)
    with pytest.raises(PruningError, match="no weights for it"):
        ways.choose(["all", "uniform"], [0.2], [], check)
    with pytest.raises(PruningError, match="unknown pruning method 'darts'"):
        ways.choose(["darts"], [0.2], [], check)
    with pytest.raises(PruningError, match="cannot be the first stage"):
        ways.choose(["none"], [0.2], [("fastv", 0.5)], check)


def test_without_the_glimpse_nothing_keeps_as_many_as_it() -> None:
    chosen, skipped = ways.choose(["none"], [0.2], [], accept)
    assert names_of(chosen) == ["none", "blind", "dropped"]
    assert "glimpse" in skipped["random-at-split"]


def test_order_changes_and_the_glimpse_is_before_what_copies_it() -> None:
    chosen, _ = ways.choose(["glimpse", "dart"], [0.1], [], accept)
    rng = np.random.default_rng(0)
    orders = [shuffled(chosen, rng) for _ in range(50)]
    assert len({tuple(order) for order in orders}) > 40
    assert {order[0] for order in orders} == set(chosen) - {RANDOM_AT_SPLIT}
    for order in orders:
        assert sorted(order, key=chosen.index) == chosen
        assert order.index(GLIMPSE) < order.index(RANDOM_AT_SPLIT)
