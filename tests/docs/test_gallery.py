"""The gallery: its page and its pictures belong together, and it is made as it says."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command
from support.places import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
sys.path.append(str(ROOT / "docs" / "make"))

import make_gallery
from make_gallery import Exhibit, View

from glimpse_models.pocket.examples import EXAMPLES
from glimpse_models.pocket.scenes.backgrounds import PHOTOS
from glimpse_runtime import Session
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle

PAGE = ROOT / "docs" / "figures" / "gallery.md"
WITH_CONDITIONS = {"china.jpg", "flower.jpg"}
"""Photographs whose licence, CC BY, has conditions."""


def shown(page: Path) -> dict[str, str]:
    """The alternative text of every picture that a page shows, by its file."""
    return {place: text for text, place in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text())}


def check(page: Path) -> set[Path]:
    """Checks that a page and its folder of pictures belong together; returns the pictures."""
    folder = page.parent / make_gallery.PICTURES
    pictures = set(folder.iterdir()) if folder.exists() else set()
    listed = {page.parent / place for place in shown(page) if not place.startswith("../")}
    assert listed == pictures
    assert all(len(text) > 5 for text in shown(page).values())
    for path in pictures:
        with Image.open(path) as picture:
            assert max(picture.size) <= 448
    return pictures


def test_the_page_lists_every_picture_and_no_other() -> None:
    pictures = check(PAGE)
    assert sum(path.stat().st_size for path in pictures) < 1.5e6


def test_the_gallery_shows_the_packaged_weights() -> None:
    text = PAGE.read_text()
    if not shown(PAGE):
        pytest.skip("the gallery has no pictures yet; run: python docs/make/make_gallery.py")
    source = Bundle.open(packaged_bundle()).manifest.model.source
    assert f"base `{source.base_sha256[:12]}`" in text, "run: python docs/make/make_gallery.py"
    assert f"adapter `{source.adapter_sha256[:12]}`" in text, "run: python docs/make/make_gallery.py"


def test_only_held_out_photographs_without_conditions_are_shown() -> None:
    assert set(make_gallery.PHOTOS) <= set(PHOTOS["test"]) - WITH_CONDITIONS
    assert {name for example in EXAMPLES for name in example.photos} <= set(make_gallery.PHOTOS)


def test_scenes_are_chosen_before_any_question_is_asked() -> None:
    first, second = list(make_gallery.held_out()), list(make_gallery.held_out())
    asked = [view.asked for exhibit in first for view in exhibit.views]
    assert asked == [view.asked for exhibit in second for view in exhibit.views]
    sides = {view.image.width for exhibit in first for view in exhibit.views}
    assert sides == {224, 448, 672, 896}
    counts = [view.asked[0][1] for exhibit in first for view in exhibit.views if view.name.startswith("count")]
    assert counts == ["1", "4"]
    (signs,) = [exhibit.views[0].asked for exhibit in first if exhibit.views[0].name == "two-signs"]
    assert len({question for question, _ in signs}) == len({text for _, text in signs}) == 2


def test_pictures_are_those_of_overlay(pocket: Session, tmp_path: Path, command: Command) -> None:
    shutil.copy(PAGE, tmp_path)
    example = next(e for e in make_gallery.examples() if max(e.views[0].image.size) <= make_gallery.LONGEST_SIDE)
    make_gallery.make(pocket, tmp_path, {"Examples": [example]})
    check(tmp_path / PAGE.name)
    view = example.views[0]
    file = tmp_path / "kept.jpg"
    done = command("glimpse_runtime.cli.run", PAGE.parent / view.given, view.asked[0][0], "--overlay", file)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == (tmp_path / make_gallery.PICTURES / f"{view.name}-1.jpg").read_bytes()
    (answers,) = re.findall(r"^\| pruned \|  \| ([^|]+) \|", (tmp_path / PAGE.name).read_text(), re.MULTILINE)
    assert answers.removeprefix("**wrong:** ") == f"`{done.stdout.strip()}`"


def test_wrong_answers_are_marked_and_old_pictures_go(pocket: Session, tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(f"before\n{make_gallery.BEGIN}an earlier gallery\n{make_gallery.END}after\n")
    old = tmp_path / make_gallery.PICTURES / "old.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    image = Image.fromarray(np.full((224, 280, 3), 90, np.uint8))
    views = [View("wall", image, [("Is there a star?", "neither")]), View("again", image, [("Is there a star?", "")])]
    make_gallery.make(pocket, tmp_path, {"Two": [Exhibit("Walls", [views[0]])], "One": [Exhibit("Wall", [views[1]])]})
    assert {path.name for path in check(page)} == {"wall.jpg", "wall-1.jpg", "again.jpg", "again-1.jpg"}
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "an earlier gallery" not in text
    assert "| pruned |  | **wrong:** `" in text
    assert "| true |  | `neither` |" in text
    assert "| true |  | nothing |" in text
    assert "of 80 (" in text
    assert text.count("1 questions: 0 answered right pruned, 0 unpruned") == 2
    make_gallery.make(pocket, tmp_path, {"One": [Exhibit("Wall", [views[1]])]})
    assert {path.name for path in check(page)} == {"again.jpg", "again-1.jpg"}


def test_a_folder_without_the_page_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_gallery.py", "--docs", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        make_gallery.main()
    assert ended.value.code == 2
    assert "there is no gallery.md" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
