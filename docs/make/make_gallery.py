"""Writes the pictures and tables of docs/figures/gallery.md: what pocket keeps, drawn as ``--overlay`` draws it.

python docs/make/make_gallery.py [--bundle DIR] [--docs FOLDER]
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random

from PIL import Image

from glimpse_models.pocket.controlled import SIDES, counting_scenes, resized_scenes
from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.questions import TYPES, Question, ask
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_runtime import GlimpseError, Pruning, Session, load
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.pruning.overlay import draw, save

DOCS, PAGE = Path(__file__).parents[1] / "figures", "gallery.md"
EXAMPLES = DOCS.parents[1] / "examples"
PICTURES = Path("images") / "gallery"
BEGIN, END = "<!-- pictures: python docs/make/make_gallery.py -->\n", "<!-- end of pictures -->\n"
LABELS = ("", "", "pruned", "unpruned", "true", "kept")
LONGEST_SIDE = 448
SEED = 2000
ATTEMPTS = 100
PHOTOS = {
    "chelsea.png": "Chelsea the cat, by Stefan van der Walt, CC0; ships with scikit-image",
    "brick.png": "Bricks25 of CC0Textures, CC0; ships with scikit-image",
    "grace_hopper.jpg": "Grace Hopper, US government, public domain; ships with matplotlib",
}
"""Held-out photographs that anyone may redistribute, and their credits."""
ASKED = {
    224: ("colour", "exist", "digit"),
    448: ("shape", "number", "count"),
    672: ("word", "digit", "exist"),
    896: ("word", "number", "colour"),
}
"""Types of the questions about an ordinary scene, by its side in pixels."""
COUNTED_SHAPE, COUNTING_SIDE = "star", 448


@dataclass(frozen=True)
class View:
    """An image and what is asked about it, as (question, true answer)."""

    name: str
    image: Image.Image
    asked: Sequence[tuple[str, str]]
    given: str | None = None
    """Where the image itself lies, relative to the page; None to make a picture of it."""
    alone: bool = False
    """Whether to leave out the image itself, and name its size with the question."""


@dataclass(frozen=True)
class Exhibit:
    """A table of the gallery: its title and the views in it."""

    title: str
    views: Sequence[View]


@dataclass
class Section:
    """Tables and pictures, and how many of the answers in them are right."""

    tables: list[str] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    asked: int = 0
    right: int = 0
    right_unpruned: int = 0
    kept_ratios: list[float] = field(default_factory=list)

    def add_picture(self, stem: str, image: Image.Image) -> str:
        """Keeps a small picture and returns its place relative to the page."""
        small = image.copy()
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        name = f"{stem}.jpg"
        self.pictures[name] = small
        return (PICTURES / name).as_posix()

    def summary(self) -> str:
        """Returns a sentence about all answers."""
        kept = sum(self.kept_ratios) / len(self.kept_ratios)
        return (
            f"{self.asked} questions: {self.right} answered right pruned, {self.right_unpruned} unpruned, with "
            f"{kept:.1%} of the visual tokens kept on average."
        )


def examples() -> Iterator[Exhibit]:
    """Yields the images of examples/ with the questions of questions.json."""
    entries = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
    for name, items in groupby(entries, key=lambda item: item["image"]):
        asked = [(item["question"], item["answer"]) for item in items]
        view = View(Path(name).stem, read_image(EXAMPLES / name), asked, f"../../examples/{name}")
        yield Exhibit(f"Example {name}", [view])


def held_out() -> Iterator[Exhibit]:
    """Yields scenes of the test split: ordinary ones, two signs, one and four objects to count, one at four sizes."""
    photos = tuple(PHOTOS)
    for side, types in ASKED.items():
        yield Exhibit(f"A scene of {side} x {side} pixels", [_ordinary(side, types)])
    yield Exhibit("The same image, two questions, two keep masks", [_two_signs()])
    counting = counting_scenes(Random(f"gallery/count/{SEED}"), COUNTED_SHAPE, COUNTING_SIDE, photos=photos)
    views = [
        View(f"count-{question.answer}", scene.image, [_pair(question)])
        for scene, question in (counting[0], counting[-1])
    ]
    yield Exhibit("The same question, one object to count and four", views)
    views = []
    for side, scene in zip(SIDES, resized_scenes(Random(f"gallery/size/{SEED}"), photos=photos), strict=True):
        question = ask(Random(f"gallery/ask/{SEED}"), scene.objects, 1)[0]
        views.append(View(f"side-{side}", scene.image, [_pair(question)], alone=True))
    yield Exhibit("The same objects and question, four sizes", views)


def _ordinary(side: int, types: Sequence[str]) -> View:
    """The first scene of a size that allows some types of question."""
    for index in range(ATTEMPTS):
        rng = scene_rng("test", SEED + side, index)
        scene = make_scene(rng, side, side, "test", photos=tuple(PHOTOS))
        asked = {question.type: question for question in ask(rng, scene.objects, 2 * len(TYPES))}
        if set(types) <= set(asked):
            return View(f"scene-{side}", scene.image, [_pair(asked[kind]) for kind in types])
    raise LookupError(f"none of {ATTEMPTS} scenes of {side} x {side} pixels allows questions of: {', '.join(types)}")


def _two_signs() -> View:
    """The first scene with two signs, and what each says."""
    for index in range(ATTEMPTS):
        scene = make_scene(scene_rng("test", SEED, index), 448, 448, "test", photos=tuple(PHOTOS))
        signs = [item for item in scene.objects if item.kind == "sign"]
        if len(signs) == 2:
            asked = [(f"What does the {sign.colour} sign say?", sign.text) for sign in signs]
            return View("two-signs", scene.image, asked)
    raise LookupError(f"none of {ATTEMPTS} scenes has two signs")


def _pair(question: Question) -> tuple[str, str]:
    return question.text, question.answer


def section(vlm: Session, exhibits: Iterable[Exhibit]) -> Section:
    """Asks, with pruning and without, and draws."""
    made = Section()
    for exhibit in exhibits:
        columns = [column for view in exhibit.views for column in _columns(vlm, view, made)]
        rows = [_row(cells) for cells in zip(LABELS, *columns, strict=True)]
        rows.insert(1, "|---" * (1 + len(columns)) + "|")
        made.tables.append("\n".join([f"### {exhibit.title}\n", *rows]))
    return made


def _columns(vlm: Session, view: View, made: Section) -> Iterator[tuple[str, ...]]:
    """Yields the cells, from top to bottom, of the image as given and of every question about it."""
    size = f"{view.image.width} x {view.image.height}"
    if not view.alone:
        place = view.given or made.add_picture(view.name, view.image)
        yield size, f"![{view.name} as given]({place})", "", "", "", ""
    for number, (question, true) in enumerate(view.asked, 1):
        answer = vlm.ask(view.image, question, max_new_tokens=MAX_NEW_TOKENS)
        plain = vlm.ask(view.image, question, pruning=Pruning(enabled=False), max_new_tokens=MAX_NEW_TOKENS)
        text, unpruned, report = answer.text.strip(), plain.text.strip(), answer.pruning
        made.asked += 1
        made.right += text == true
        made.right_unpruned += unpruned == true
        made.kept_ratios.append(report.kept_ratio)
        place = made.add_picture(f"{view.name}-{number}", draw(view.image, report.keep_masks[0]))
        yield (
            f"{size}: {question}" if view.alone else question,
            f"![What is kept of {view.name} for: {question}]({place})",
            _judged(text, true),
            _judged(unpruned, true),
            _code(true),
            f"{report.kept} of {report.total} ({report.kept_ratio:.1%})",
        )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _judged(text: str, true: str) -> str:
    return _code(text) if text == true else f"**wrong:** {_code(text)}"


def _code(text: str) -> str:
    shown = " ".join(text.split()).replace("`", "'").replace("|", "/")
    return f"`{shown}`" if shown else "nothing"


def make(vlm: Session, docs: Path, sections: Mapping[str, Iterable[Exhibit]]) -> None:
    """Writes the page and its pictures, and deletes the pictures of an earlier gallery.

    Args:
        vlm: a session of a pocket bundle.
        docs: the folder of gallery.md, whose text outside the marks stays.
        sections: exhibits by the title of their section.
    """
    page = docs / PAGE
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    manifest = vlm.bundle.manifest
    source = manifest.model.source
    weights = f"base `{source.base_sha256[:12]}`, adapter `{(source.adapter_sha256 or 'none')[:12]}`"
    parts = [f"Made with {manifest.model.name}, {weights}, threshold {manifest.pruning.threshold:g}."]
    pictures: dict[str, Image.Image] = {}
    for title, exhibits in sections.items():
        made = section(vlm, exhibits)
        parts += [f"## {title}", made.summary(), *made.tables]
        pictures |= made.pictures
    parts.append("## Photographs\n\nBackgrounds are patterns, or crops of these, some with other colours:")
    parts.append("\n".join(f"* `{name}`: {credit}" for name, credit in PHOTOS.items()))
    folder = docs / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        save(picture, folder / name)
    for path in folder.iterdir():
        if path.name not in pictures:
            path.unlink()
    page.write_text(before + BEGIN + "\n\n".join(parts) + "\n" + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle of a pocket model (default: the packaged one)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of gallery.md (default: docs/figures)")
    options = parser.parse_args()
    if not (options.docs / PAGE).is_file():
        parser.error(f"--docs {options.docs}: there is no {PAGE}, whose text around the pictures stays; copy it there")
    try:
        with load(options.bundle) as vlm:
            make(vlm, options.docs, {"Examples": examples(), "Held-out scenes": held_out()})
    except GlimpseError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
