# ruff: noqa: E402
"""Evaluation of the packaged pocket bundle through the runtime: it answers, prunes, and needs what it keeps."""

import json

import pytest

for package in ("onnxruntime", "skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from glimpse_models.pocket.evaluate import evaluate, main, table
from glimpse_runtime import load


@pytest.fixture(scope="module")
def summaries():
    with load() as session:
        evaluation = evaluate(session, 28, seed=0)
    return {name: result.summary() for name, result in evaluation.results.items()}


def test_most_answers_are_right_with_and_without_pruning(summaries):
    assert summaries["unpruned"]["exact_match"] > 0.6
    assert summaries["pruned"]["exact_match"] > 0.6


def test_most_tokens_are_pruned(summaries):
    assert summaries["unpruned"]["pruned_share"] == 0
    assert summaries["pruned"]["pruned_share"] > 0.8
    assert summaries["none"]["pruned_share"] == 1
    assert summaries["random"]["pruned_share"] == pytest.approx(summaries["pruned"]["pruned_share"])


def test_the_kept_tokens_matter(summaries):
    for floor in ("random", "none"):
        assert summaries[floor]["exact_match"] < summaries["pruned"]["exact_match"] - 0.1


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
