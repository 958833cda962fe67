"""Pruning methods as a request meets them: refusals, reports, scenes, deadlines, and methods of other packages."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pruners import Install, unlearned

from glimpse_runtime import PromptError, Pruning, PruningError, Session, load
from glimpse_runtime.pruners import find, names
from glimpse_runtime.steps.select import _quotas

QUESTION = "What colour is the circle?"
OTHER = "How many stars are there?"
BEFORE = ("dart", "divprune", "cdpruner", "uniform", "random")
FIXED = (*BEFORE, "fastv", "glimpse-attention")


METHOD = """
import numpy as np
from glimpse_runtime.pruners import BEFORE, SPLIT, Pruner
def choose(given):
    {body}
PRUNER = Pruner("{name}", {place}, {needs}, "a test", choose)
"""


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"method": "darts"}, "unknown pruning method 'darts'; there are glimpse, "),
        ({"pre": "darts", "pre_keep": 0.5}, "unknown pruning method 'darts'"),
        ({"pre": "dart"}, "has a method and a share"),
        ({"pre_keep": 0.5}, "has a method and a share"),
        ({"pre": "dart", "pre_keep": 0.0}, "pre_keep must be above 0"),
        ({"pre": "dart", "pre_keep": 1.5}, "pre_keep must lie in 0..1"),
        ({"pre": "fastv", "pre_keep": 0.5}, "'fastv' acts at the split"),
        ({"pre": "dart", "pre_keep": 0.5, "method": "divprune", "max_keep_ratio": 0.2}, "both act before layer 0"),
        ({"method": "dart", "threshold": 0.5}, "a threshold has no meaning"),
        ({"method": "oracle"}, "give keep_masks"),
        ({"keep_masks": [np.ones((2, 2), bool)], "method": "dart"}, "no method can choose"),
        ({"keep_masks": [np.ones((2, 2), bool)], "pre": "dart", "pre_keep": 0.5}, "no method can choose"),
        ({"position_debias": True}, "position_debias works on attention"),
        ({"neighbour_suppression": True, "method": "random"}, "neighbour_suppression works on attention"),
        ({"enabled": False, "method": "dart"}, "switched off"),
        ({"enabled": False, "pre": "dart", "pre_keep": 0.5}, "switched off"),
        ({"enabled": False, "keep_masks": np.ones((1, 2, 2), bool)}, "switched off"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(PruningError, match=re.escape(part)):
        Pruning(**options)


def test_what_the_bundle_lacks_is_refused_before_compute(pocket: Session, photo: np.ndarray) -> None:
    for request, part in (
        (Pruning(method="dart"), "keeps a fixed share"),
        (Pruning(method="fastv"), "keeps a fixed share"),
        (Pruning(method="dart", max_keep_ratio=0.1, min_keep=999), "the prompt has only 96 visual tokens"),
    ):
        with pytest.raises(PruningError, match=re.escape(part)):
            pocket.ask(photo, QUESTION, pruning=request)


def test_weights_that_the_bundle_lacks_are_refused_before_compute(tmp_path: Path, photo: np.ndarray) -> None:
    with load(unlearned(tmp_path / "bundle")) as vlm:
        for request, name in (
            (Pruning(method="covipal", max_keep_ratio=0.5), "covipal"),
            (Pruning(method="sdtp", max_keep_ratio=0.5), "sdtp"),
            (Pruning(pre="covipal", pre_keep=0.5), "covipal"),
        ):
            with pytest.raises(PruningError, match=rf"this bundle has no pruner\.{name}\.npz; .* adapter folder"):
                vlm.ask(photo, QUESTION, pruning=request)


@pytest.mark.parametrize("method", FIXED)
def test_a_method_keeps_its_share_and_says_so(pocket: Session, photo: np.ndarray, method: str) -> None:
    images = [photo, photo[:, :224]]
    request = Pruning(method=method, max_keep_ratio=0.3, min_keep=0)
    reports = [pocket.ask(images, QUESTION, pruning=request).pruning for _ in range(2)]
    report = reports[0]
    assert (report.method, report.total, report.kept) == (method, 96 + 64, 48)
    assert (report.threshold, report.max_keep_ratio, report.reason) == (None, 0.3, None)
    assert sum(int(mask.sum()) for mask in report.keep_masks) == report.kept
    assert [mask.shape for mask in report.keep_masks] == [(8, 12), (8, 8)]
    for first, second in zip(reports[0].keep_masks, reports[1].keep_masks, strict=True):
        assert np.array_equal(first, second)
    if method in ("dart", "divprune", "cdpruner", "uniform"):  # masks: each image its part
        assert [int(mask.sum()) for mask in report.keep_masks] == [29, 19]
        assert report.scores == ()
    else:
        lowest = min(score[mask].min() for score, mask in zip(report.scores, report.keep_masks, strict=True))
        rest = [score[~mask].max() for score, mask in zip(report.scores, report.keep_masks, strict=True)]
        assert lowest >= max(rest)


def test_the_budget_is_shared_by_size_and_what_rounding_leaves_by_fraction() -> None:
    assert _quotas([96, 64], 48).tolist() == [29, 19]
    assert _quotas([64, 96], 48).tolist() == [19, 29]
    assert _quotas([10, 10, 10], 8).tolist() == [3, 3, 2]
    assert _quotas([1, 1, 98], 50).tolist() == [1, 0, 49]
    assert _quotas([0, 5], 5).tolist() == [0, 5]
    assert _quotas([3, 4], 0).tolist() == [0, 0]


def test_the_first_stage_is_reported(pocket: Session, photo: np.ndarray) -> None:
    report = pocket.ask(photo, QUESTION, pruning=Pruning(pre="dart", pre_keep=0.5, threshold=0.0)).pruning
    assert (report.method, report.pre, report.pre_kept, report.kept) == ("glimpse", "dart", 48, 48)
    assert np.array_equal(report.pre_masks[0], report.keep_masks[0])
    assert (report.scores[0][~report.pre_masks[0]] == 0).all()
    assert (report.scores[0][report.pre_masks[0]] > 0).all()
    plain = pocket.ask(photo, QUESTION).pruning
    assert (plain.pre, plain.pre_kept, plain.pre_masks) == (None, None, ())
    mask = np.zeros((8, 12), bool)
    mask[2, 3] = True
    named = pocket.ask(photo, QUESTION, pruning=Pruning(method="oracle", keep_masks=[mask])).pruning
    assert (named.method, named.kept) == ("oracle", 1)
    assert np.array_equal(named.keep_masks[0], mask)


def test_attention_options_change_what_is_kept(pocket: Session, photo: np.ndarray) -> None:
    options = ({}, {"position_debias": True}, {"neighbour_suppression": True})
    masks = []
    for option in options:
        report = pocket.ask(
            [photo, photo[::-1]], OTHER, pruning=Pruning(method="fastv", max_keep_ratio=0.25, **option)
        ).pruning
        assert report.kept == 48
        masks.append(np.concatenate(report.keep_masks))
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_unpruned_and_text_requests_name_no_method(pocket: Session) -> None:
    report = pocket.ask([], "Hello", pruning=Pruning(method="dart", max_keep_ratio=0.5)).pruning
    assert (report.method, report.reason) == ("none", "the prompt has no image")
    report = pocket.ask([], "Hello", pruning=Pruning(pre="dart", pre_keep=0.5)).pruning
    assert (report.method, report.pre) == ("none", None)


@pytest.mark.parametrize("pre", BEFORE)
def test_a_scene_answers_as_a_fresh_question_does(photo: np.ndarray, pre: str) -> None:
    staged, plain = Pruning(pre=pre, pre_keep=0.5), Pruning()
    alone = Pruning(method=pre, max_keep_ratio=0.4)
    as_many = Pruning(pre="random", pre_keep=0.5, seed=7)
    with load(scene_cache_bytes=0) as fresh, load() as vlm, vlm.encode(photo) as scene:
        for request in (plain, staged, as_many, staged, alone, plain, staged, Pruning(enabled=False)):
            for question in (QUESTION, OTHER):
                expected = fresh.ask(photo, question, pruning=request, max_new_tokens=5)
                for found in (
                    scene.ask(question, pruning=request, max_new_tokens=5),
                    vlm.ask(photo, question, pruning=request, max_new_tokens=5),
                ):
                    assert found.text == expected.text
                    assert found.pruning.kept == expected.pruning.kept
                    assert found.pruning.pre_kept == expected.pruning.pre_kept
                    for mine, theirs in zip(found.pruning.keep_masks, expected.pruning.keep_masks, strict=True):
                        assert np.array_equal(mine, theirs)


def test_a_scene_is_made_for_its_first_stage(photo: np.ndarray) -> None:
    staged = Pruning(pre="divprune", pre_keep=0.5)
    with load(scene_cache_bytes=0) as vlm:
        with vlm.encode(photo) as scene:
            whole_bytes = scene.nbytes
        with vlm.encode(photo, pruning=staged) as scene:
            assert scene.nbytes < whole_bytes
            prefix = scene._state.prefix  # type: ignore[union-attr]
            assert scene.ask(QUESTION).pruning.pre == "divprune"
            assert scene._state.prefix is prefix  # type: ignore[union-attr]
            assert scene.ask(QUESTION, pruning=Pruning()).pruning.pre is None
            assert scene._state.prefix is not prefix  # type: ignore[union-attr]
        with vlm.encode(photo, pruning=Pruning(pre="dart", pre_keep=0.5)) as scene:  # depends on the question
            assert scene._state.prefix is None  # type: ignore[union-attr]
            assert scene.ask(QUESTION).pruning.pre_kept == 48
            assert scene._state.prefix is None  # type: ignore[union-attr]  (it would serve no other question)


def test_what_is_dropped_before_layer_0_needs_no_room(photo: np.ndarray) -> None:
    with load() as vlm:
        capacity = vlm.bundle.manifest.profiles["context"].max
        images = [np.tile(photo, (3, 2, 1))] * 8
        with pytest.raises(PromptError, match="rows of context"):
            vlm.ask(images, QUESTION)
        report = vlm.ask(images, QUESTION, pruning=Pruning(pre="uniform", pre_keep=0.2), max_new_tokens=1).pruning
        assert report.total > capacity
        assert report.pre_kept == int(0.2 * report.total)


def test_a_request_ends_between_the_choices_for_two_images(install: Install, photo: np.ndarray) -> None:
    body = "SEEN.append(given.image); CANCEL(); return given.cells > -1"
    code = METHOD.format(name="cancels", place="BEFORE", needs=(), body=body)
    install("cancels", f"SEEN = []\n{code}")
    with load() as vlm:
        request = Pruning(pre="cancels", pre_keep=0.5)
        module: Any = sys.modules["module_cancels"]
        module.CANCEL = vlm.cancel
        answer = vlm.ask([photo, photo[1:]], QUESTION, pruning=request)
        assert answer.text == ""
        assert answer.finish_reason == "cancelled"
        assert answer.pruning.reason == "the request ended before pruning"
        assert module.SEEN == [0]
        assert vlm.ask(photo, QUESTION).text  # the session is ready for the next one
        late = vlm.ask(photo, QUESTION, pruning=Pruning(pre="dart", pre_keep=0.5), timeout=0)
        assert (late.text, late.finish_reason) == ("", "deadline")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (
            "return np.zeros(3)",
            "must give 96 scores or a bool mask of an image's 96 tokens, gave float64 of shape (3,)",
        ),
        ("return np.full(len(given.cells), np.nan)", "with NaN"),
        ("return np.zeros(len(given.cells), int)", "gave int64"),
        ("raise OSError('no file')", "failed: OSError: no file"),
        ("return given.cells >= 0", "kept 96 tokens before layer 0, it may keep 1 to 48"),
        ("return given.cells < 0", "kept 0 tokens before layer 0, it may keep 1 to 48"),
        ("return given.features", "reads 'features' without having it"),
    ],
)
def test_a_faulty_method_is_named(install: Install, pocket: Session, photo: np.ndarray, body: str, part: str) -> None:
    name = f"faulty-{abs(hash(body))}"
    install(name, METHOD.format(name=name, place="BEFORE", needs=("embeds",), body=body))
    with pytest.raises(PruningError, match=re.escape(part)):
        pocket.ask(photo, QUESTION, pruning=Pruning(method=name, max_keep_ratio=0.5))
    assert pocket.ask(photo, QUESTION).pruning.method == "glimpse"


def test_packages_that_cannot_be_used_are_named(install: Install) -> None:
    install("broken-import", "import no_such_library")
    install("not-one", "PRUNER = 3")
    install("glimpse", METHOD.format(name="glimpse", place="BEFORE", needs=(), body="return None"))
    with pytest.raises(PruningError, match="module_broken_import:PRUNER cannot be loaded: ModuleNotFoundError"):
        Pruning(method="broken-import")
    with pytest.raises(PruningError, match="module_not_one:PRUNER is not a Pruner of that name"):
        Pruning(method="not-one")
    assert find("glimpse").adaptive  # nobody takes the name of a built-in one
    assert names().count("glimpse") == 1
    from glimpse_runtime.pruners import table

    assert "cannot be loaded" in table()


def test_a_method_at_the_split_of_another_package(install: Install, pocket: Session, photo: np.ndarray) -> None:
    body = "return given.hidden[:, 0] + given.embeds[:, 0] + given.features[0, :, 0] + given.positions[1]"
    needs = ("hidden", "embeds", "features")
    install("at-the-split", METHOD.format(name="at-the-split", place="SPLIT", needs=needs, body=body))
    request = Pruning(method="at-the-split", max_keep_ratio=0.25, pre="uniform", pre_keep=0.5)
    report = pocket.ask([photo, photo[:, :224]], QUESTION, pruning=request).pruning
    assert report.kept == int(0.25 * report.total)
    assert (report.scores[0][report.pre_masks[0]] != 0).all()


def test_nothing_may_enter(pocket: Session, photo: np.ndarray) -> None:
    for method in ("dart", "random", "cdpruner"):
        request = Pruning(method=method, max_keep_ratio=0.0, min_keep=0)
        answer = pocket.ask([photo, photo[1:]], QUESTION, pruning=request)
        assert (answer.pruning.kept, answer.pruning.method) == (0, method)
        assert answer.text
        with pocket.encode(photo, pruning=request) as scene:
            assert scene.ask(QUESTION).pruning.kept == 0


def test_a_mask_of_another_package_is_taken_as_it_is(install: Install, pocket: Session, photo: np.ndarray) -> None:
    install(
        "every-third", METHOD.format(name="every-third", place="SPLIT", needs=(), body="return given.cells % 3 == 0")
    )
    report = pocket.ask(photo, QUESTION, pruning=Pruning(method="every-third", max_keep_ratio=0.1)).pruning
    assert np.flatnonzero(report.keep_masks[0]).tolist() == list(range(0, 96, 3))
