# ruff: noqa: E402
"""Evaluation of the packaged pocket bundle through the runtime: it answers, prunes, and needs what it keeps."""

import json
from collections import Counter, defaultdict

import pytest

for package in ("onnxruntime", "skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from glimpse_models.pocket import validate
from glimpse_models.pocket.evaluate import evaluate, main, table
from glimpse_models.pocket.scenes.questions import TYPES, ask
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_runtime import load


@pytest.fixture(scope="module")
def summaries():
    with load() as session:
        return evaluate(session, 28, seed=0).summaries()


def test_most_answers_are_right_with_and_without_pruning(summaries):
    assert summaries["unpruned"]["exact_match"] > 0.6
    assert summaries["pruned"]["exact_match"] > 0.6


def test_most_tokens_are_pruned(summaries):
    assert summaries["unpruned"]["pruned_share"] == 0
    assert summaries["pruned"]["pruned_share"] > 0.8
    assert summaries["none"]["pruned_share"] == 1
    assert summaries["random"]["pruned_share"] == pytest.approx(summaries["pruned"]["pruned_share"])


def test_the_kept_tokens_matter(summaries):
    for floor in ("random", "none", "blind"):
        assert summaries[floor]["exact_match"] < summaries["pruned"]["exact_match"] - 0.1


def test_words_that_training_showed_are_a_column_of_their_own(summaries):
    for way in ("unpruned", "pruned"):
        summary = summaries[way]
        assert 0 <= summary["exact_match_by_type"]["known"] <= 1
        assert summary["questions"] == 28
        weighed = [summary["exact_match_by_type"][kind] for kind in TYPES]
        assert min(weighed) <= summary["exact_match"] <= max(weighed)
    assert "known" not in summaries["boxes"]["exact_match_by_type"]


def test_the_best_token_usually_lies_on_what_is_asked_about(summaries):
    assert summaries["pruned"]["pointed"] > 0.6
    assert summaries["unpruned"]["pointed"] is None
    assert summaries["random"]["pointed"] is None


@pytest.mark.slow
def test_a_question_alone_does_not_give_its_answer_away():
    """The most frequent answer to every question text, counted over training scenes, is rarely right."""
    answers = defaultdict(Counter)
    for index in range(400):
        rng = scene_rng("train", 5, index)
        for question in ask(rng, make_scene(rng, 224, 224, "train", photos=()).objects, 14):
            answers[question.text][question.answer] += 1
    right = defaultdict(list)
    for index in range(150):
        rng = scene_rng("test", 5, index)
        for question in ask(rng, make_scene(rng, 224, 224, "test", photos=()).objects, 7):
            guess = answers[question.text].most_common(1)[0][0]
            right[question.type].append(guess == question.answer)
    shares = {kind: sum(found) / len(found) for kind, found in right.items()}
    assert set(shares) == set(TYPES)
    chances = {"exist": 0.5, "count": 0.5, "shape": 1 / 6, "colour": 1 / 8, "digit": 0.1, "word": 0, "number": 0.001}
    for kind, share in shares.items():
        assert share < chances[kind] + 0.13, (kind, share)


def test_table_has_a_line_for_each_way(summaries):
    lines = table(summaries).splitlines()
    assert len(lines) == 1 + len(summaries)
    assert lines[0].split()[0] == "all"
    assert lines[0].split()[-1] == "pruned"


def test_command_prints_one_json_object(capsys):
    assert main(["--samples", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["results"]["pruned"]["questions"] == 2


def test_another_way_of_pruning_is_one_more_line(capsys):
    assert main(["--samples", "2", "--json", "--pre", "dart", "--pre-keep", "0.5", "--keep", "0.1"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["dart 0.5, glimpse 0.1"]["pruned_share"] >= 0.9
    assert main(["--samples", "2", "--pruner", "uniform", "--keep", "0.25"]) == 0
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["uniform", "0.25"]
    assert float(last[-1]) == pytest.approx(0.75, abs=0.01)


def test_validation_goes_by_threshold_on_scenes_of_its_own(capsys):
    with load() as session:
        found = validate.validate(session, 14, 0, thresholds=(0.5, 0.001))
    assert list(found) == ["unpruned", "threshold 0.5", "threshold 0.001"]
    assert found["threshold 0.5"]["pruned_share"] > found["threshold 0.001"]["pruned_share"] > 0
    assert {summary["questions"] for summary in found.values()} == {14}
    assert validate.main(["--samples", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["split"] == "validation"
    assert list(report["results"]) == ["unpruned", *(f"threshold {value:g}" for value in validate.THRESHOLDS)]
