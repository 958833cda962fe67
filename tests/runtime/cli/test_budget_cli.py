"""``glimpse-run --max-visual-tokens`` and ``--budget-ms`` as a user sees them."""

import json

import pytest
from support.commands import Command, assert_one_clear_line
from support.places import ROOT

RUN = "glimpse_runtime.cli.run"
CAT, QUESTION = ROOT / "examples" / "cat.jpg", "What does the black sign say?"


def test_an_image_has_at_most_so_many_visual_tokens(command: Command) -> None:
    done = command(RUN, CAT, QUESTION, "--max-visual-tokens", "100", "--json", "--max-new-tokens", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pruning"]["total"] <= 100


def test_a_budget_without_costs_names_the_command(command: Command) -> None:
    # No other test measures costs for this number of threads.
    done = command(RUN, CAT, QUESTION, "--budget-ms", "500", "--threads", "3")
    assert_one_clear_line(done)
    assert "--calibrate" in done.stderr


@pytest.mark.slow
def test_a_budget_is_told(command: Command) -> None:
    done = command(RUN, CAT, QUESTION, "--calibrate", "--budget-ms", "60000", "--json", "--stats")
    assert done.returncode == 0, done.stderr
    budget = json.loads(done.stdout)["budget"]
    assert (budget["budget_ms"], budget["way"]) == (60000, "full")
    assert "60000.0 ms" in done.stderr
