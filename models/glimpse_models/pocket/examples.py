"""Makes the example images: ``python -m glimpse_models.pocket.examples --out examples``.

It draws held-out scenes and keeps, per image, the first one whose questions the model answers right with and without
pruning: examples show what the model can do; ``evaluate`` measures how well it does.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.questions import Question, ask
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_runtime import Pruning, Session, load

SEED = 1000
ATTEMPTS = 60


@dataclass(frozen=True)
class Example:
    """An example image: its file name, size in pixels, background photographs (none with restrictions), questions."""

    name: str
    width: int
    height: int
    photos: tuple[str, ...]
    types: tuple[str, ...]


EXAMPLES = (
    Example("shapes.png", 448, 448, (), ("colour", "shape", "count")),
    Example("cat.jpg", 640, 480, ("chelsea.png",), ("word", "digit", "colour")),
    Example("plate.jpg", 448, 336, ("brick.png",), ("number", "exist")),
    Example("portrait.jpg", 672, 672, ("grace_hopper.jpg",), ("word", "number")),
)


def find(session: Session, example: Example) -> tuple[bytes, list[Question], int]:
    """Return the image file and questions of the first scene that will do, and how many were tried.

    Raises:
        LookupError: No scene will do.
    """
    for index in range(ATTEMPTS):
        rng = scene_rng("test", SEED + EXAMPLES.index(example), index)
        scene = make_scene(rng, example.width, example.height, "test", photos=example.photos)
        asked = {q.type: q for q in ask(rng, scene.objects, 14) if q.boxes}
        if not set(example.types) <= set(asked):
            continue
        questions = [asked[kind] for kind in example.types]
        file = io.BytesIO()
        scene.image.save(file, Image.registered_extensions()[Path(example.name).suffix], quality=90, optimize=True)
        if all(_right(session, file.getvalue(), question) for question in questions):
            return file.getvalue(), questions, index + 1
    raise LookupError(f"none of {ATTEMPTS} scenes suits {example.name}")


def _right(session: Session, image: bytes, question: Question) -> bool:
    """Say whether the question is answered right with pruning and without."""
    ways = (Pruning(), Pruning(enabled=False))
    answers = (
        session.ask(image, question.text, pruning=way, max_new_tokens=MAX_NEW_TOKENS).text.strip() for way in ways
    )
    return all(answer == question.answer for answer in answers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images and questions.json."""
    parser = argparse.ArgumentParser(prog="python -m glimpse_models.pocket.examples", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the images and questions.json")
    parser.add_argument("--bundle", help="bundle folder (default: the packaged pocket bundle)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    entries = []
    with load(options.bundle) as session:
        for example in EXAMPLES:
            image, questions, tried = find(session, example)
            (options.out / example.name).write_bytes(image)
            entries += [{"image": example.name, "question": q.text, "answer": q.answer} for q in questions]
            print(f"{example.name}: scene {tried} of at most {ATTEMPTS}")
    (options.out / "questions.json").write_text(json.dumps(entries, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
