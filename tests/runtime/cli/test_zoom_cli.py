"""``glimpse-run --zoom`` as a user sees it."""

import json
from pathlib import Path

from PIL import Image
from support.commands import Command, assert_one_clear_line
from support.places import ROOT

RUN = "glimpse_runtime.cli.run"
CAT, QUESTION = ROOT / "examples" / "cat.jpg", "What does the black sign say?"


def test_zoom_is_in_the_object_the_table_and_the_picture(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "zoom.png"
    done = command(RUN, CAT, QUESTION, "--zoom", "--json", "--stats", "--overlay", picture)
    assert done.returncode == 0, done.stderr
    zoom = json.loads(done.stdout)["pruning"]["zoom"]
    assert zoom["share"] == 0.25
    assert zoom["zoomed"] == (zoom["reason"] is None)
    assert 0 < zoom["patches_share"] < 1.3
    assert "scout_vision" in done.stderr
    assert "of the image's" in done.stderr
    with Image.open(picture) as sheet, Image.open(CAT) as cat:
        assert sheet.width == 3 * cat.width + 16


def test_without_zoom_nothing_is_said_of_it(command: Command) -> None:
    done = command(RUN, CAT, QUESTION, "--json", "--stats")
    assert json.loads(done.stdout)["pruning"]["zoom"] is None
    assert "scout_vision" not in done.stderr


def test_zoom_without_pruning_is_refused(command: Command) -> None:
    done = command(RUN, CAT, QUESTION, "--zoom", "--no-prune")
    assert done.returncode == 2
    assert "--zoom has no meaning" in done.stderr


def test_zoom_with_another_method_is_refused(command: Command) -> None:
    assert_one_clear_line(command(RUN, CAT, QUESTION, "--zoom", "--pruner", "divprune", "--max-keep-ratio", "0.5"))
