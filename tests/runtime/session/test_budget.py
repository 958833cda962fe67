"""``budget_ms=``: what is chosen for a budget, what is refused, and the costs that it is chosen by."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse_runtime import InputError, Pruning, Session, load
from glimpse_runtime.session.costs import Costs, Work, place_of, read, write

# A millisecond for a patch of vision and for a row of the lower and of the upper layers; all else is free.
LINE = ((0, 0.0), (10_000, 10_000.0))
COSTS = Costs({"vision": LINE, "lower": LINE, "upper": LINE}, 1.0)
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def vlm() -> Iterator[Session]:
    with load(scene_cache_bytes=0) as session:
        session.costs = COSTS
        yield session


@pytest.fixture
def photo() -> np.ndarray:
    """A picture of 20 x 20 visual tokens, 1,600 patches."""
    return np.random.default_rng(0).integers(0, 256, (560, 560, 3), np.uint8)


def by_hand(vlm: Session, photo: np.ndarray, patches: float, lower: float, upper: float) -> float:
    """Milliseconds of one run of each stage, by numbers of visual tokens."""
    answer = vlm.ask(photo, QUESTION, max_new_tokens=1)
    text = answer.stats.prompt_tokens - answer.pruning.total
    return patches + lower + text + vlm.bundle.manifest.glimpse.length + upper + text


def test_a_budget_sees_as_much_as_it_can(vlm: Session, photo: np.ndarray) -> None:
    """Whole first, then fewer kept, then fewer entering, then a part, then fewer pixels."""
    text = by_hand(vlm, photo, 0, 0, 0)
    ways = (
        ("full", 1600 + 400 + 400 + text),
        ("pruned", 1600 + 400 + 200 + text),
        ("two-stage", 1600 + 200 + 100 + text),
        ("zoom", 400 + 480 + 100 + 120 + 120 + 2 * text),
        ("smaller", 600.0),
    )
    for way, needed_ms in ways:
        answer = vlm.ask(photo, QUESTION, budget_ms=needed_ms + 100, max_new_tokens=1)
        report = answer.budget
        assert report is not None
        assert report.way == way
        assert report.predicted_ms <= report.budget_ms == needed_ms + 100
        if way in ("full", "pruned", "two-stage"):
            assert needed_ms <= report.predicted_ms
        assert report.max_keep_ratio == {"pruned": 0.5, "two-stage": 0.25, "smaller": 0.11}.get(way)
        assert answer.pruning.total == (400 if way != "smaller" else answer.pruning.total)
        if way == "zoom":
            assert answer.pruning.kept <= 0.3 * 400
            assert answer.pruning.zoom is not None
            assert answer.pruning.zoom.zoomed
        if way == "smaller":
            assert answer.pruning.total <= (report.max_visual_tokens or 0) < 400


def test_what_cannot_be_met_is_refused_before_computing_with_the_least_that_can(
    vlm: Session, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(vlm._open_pipeline(), "encode", lambda *_: pytest.fail("computed"))
        with pytest.raises(InputError, match=r"least is about \d+ ms") as error:
            vlm.ask(photo, QUESTION, budget_ms=5)
    found = re.search(r"budget_ms=(\d+)", str(error.value))
    assert found is not None
    assert vlm.ask(photo, QUESTION, budget_ms=int(found[1]) + 50, max_new_tokens=1).budget is not None


def test_options_of_the_caller_stay(vlm: Session, photo: np.ndarray) -> None:
    asked = Pruning(enabled=False)
    answer = vlm.ask(photo, QUESTION, budget_ms=900, pruning=asked, max_new_tokens=1)
    assert answer.pruning.kept == answer.pruning.total < 400
    assert answer.budget is not None
    assert answer.budget.max_keep_ratio is None
    capped = vlm.ask(photo, QUESTION, budget_ms=900, pruning=Pruning(max_keep_ratio=0.3), max_new_tokens=1)
    assert capped.budget is not None
    assert (capped.budget.way, capped.budget.max_keep_ratio) == ("smaller", 0.3)
    limited = vlm.ask(photo, QUESTION, budget_ms=9000, max_visual_tokens=64, max_new_tokens=1)
    assert limited.pruning.total <= 64


def test_without_costs_a_budget_is_refused_with_the_way_out(
    pocket: Session, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pocket, "costs", None)
    with pytest.raises(InputError, match=r"glimpse-run --calibrate .*calibrate=True"):
        pocket.ask(photo, QUESTION, budget_ms=100)


@pytest.mark.parametrize("wrong", [0, -1, "8", True, np.nan, np.inf], ids=str)
def test_budgets_that_make_no_sense_are_refused(vlm: Session, photo: np.ndarray, wrong: Any) -> None:
    with pytest.raises(InputError, match="budget_ms"):
        vlm.ask(photo, QUESTION, budget_ms=wrong)


def test_a_prediction_is_the_sum_of_the_stages() -> None:
    points = {"vision": ((100, 10.0), (300, 50.0)), "lower": ((10, 1.0),), "upper": ((10, 2.0),)}
    costs = Costs({**points, "preselect": ((50, 3.0),)}, 1.5)
    work = Work((200, 50), 0, 50, (10,), 20, (), True)
    assert costs.predicted_ms(work) == pytest.approx(1.5 * (30 + 10 + 1 + 2 * 4 + 3))


def test_costs_are_kept_and_checked(tmp_path: Path) -> None:
    place = tmp_path / "costs" / "one.json"
    assert read(place) is None
    write(place, COSTS)
    assert read(place) == COSTS
    good = json.loads(place.read_text())
    for bad in (
        [],
        {**good, "margin": 0.5},
        {**good, "margin": "nan"},
        {**good, "points": {}},
        {**good, "points": {**good["points"], "vision": [[5, 1.0], [4, 1.0]]}},
        {**good, "points": {**good["points"], "lower": [[5, -1.0]]}},
    ):
        place.write_text(json.dumps(bad))
        assert read(place) is None, bad
    place.write_text("{")
    assert read(place) is None


def test_costs_belong_to_a_bundle_a_device_and_threads(pocket: Session) -> None:
    manifest = pocket.bundle.manifest
    places = {place_of(manifest, "cpu", None), place_of(manifest, "cpu", 2), place_of(manifest, "cuda", None)}
    assert len(places) == 3


@pytest.mark.slow
def test_measured_costs_predict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: np.ndarray) -> None:
    """More work costs more, and a second session finds what the first has measured."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    with load(calibrate=True, scene_cache_bytes=0) as first:
        assert first.costs is not None
        little, much = (first.costs.predicted_ms(Work((4 * n,), 784 * n, n, (n,), n, (n,), False)) for n in (30, 1000))
        assert 0 < little < much
    with load(scene_cache_bytes=0) as second:
        assert second.costs == first.costs
        assert second.ask(photo, QUESTION, budget_ms=60_000, max_new_tokens=1).budget is not None
