"""Asks about a scene: seven question types, each with its answer and the boxes of the objects that answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from glimpse_models.pocket.scenes.scenes import SceneObject
from glimpse_models.pocket.scenes.sprites import COLOURS, SHAPES, Box

TYPES = ("colour", "shape", "digit", "count", "word", "number", "exist")
MAX_COUNT = 4
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": (
        "What colour is the {shape}?",
        "What color is the {shape}?",
        "Which colour is the {shape}?",
        "Tell me the colour of the {shape}.",
    ),
    "shape": ("What shape is {colour}?", "Which shape is {colour}?", "What is the {colour} shape?"),
    "digit": (
        "Which digit is on the {colour} card?",
        "What digit is on the {colour} card?",
        "Read the digit on the {colour} card.",
        "What number is on the {colour} card?",
    ),
    "count": ("How many {plural} are there?", "How many {plural} are in the image?", "Count the {plural}."),
    "word": (
        "What word is on the sign?",
        "What does the sign say?",
        "Read the sign.",
        "What is written on the sign?",
        "What does the {colour} sign say?",
        "Read the {colour} sign.",
    ),
    "number": (
        "What number is on the plate?",
        "Read the plate.",
        "What is the plate number?",
        "What number is on the {colour} plate?",
        "Read the {colour} plate.",
    ),
    "exist": (
        "Is there a {shape}?",
        "Can you see a {shape}?",
        "Is there {article} {colour} {shape}?",
        "Do you see {article} {colour} {shape}?",
    ),
}


@dataclass(frozen=True)
class Question:
    """A question of one of ``TYPES``, its answer, and the boxes of the objects it is about."""

    type: str
    text: str
    answer: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Fact:
    words: dict[str, str]
    answer: str
    boxes: tuple[Box, ...]
    by_colour: bool = False
    """Only its colour tells the object from others of its kind."""


def ask(
    rng: Random, objects: Sequence[SceneObject], count: int, weights: dict[str, int] | None = None
) -> list[Question]:
    """Ask ``count`` questions, going round the types that the scene allows.

    Args:
        rng: Source of every random choice.
        objects: The objects of the scene.
        count: How many questions.
        weights: How many turns a type gets per round (default one each).

    Returns:
        The questions, types mixed; a small scene may repeat one.
    """
    facts = {kind: list(_facts(kind, objects)) for kind in TYPES if kind != "exist"}
    turns = [kind for kind in TYPES if kind == "exist" or facts[kind] for _ in range((weights or {}).get(kind, 1))]
    order: list[str] = []
    while len(order) < count:
        order += rng.sample(turns, len(turns))
    return [_exist(rng, objects) if kind == "exist" else _ask(rng, kind, facts[kind]) for kind in order[:count]]


def every_question() -> Iterator[str]:
    """Yield every question text that can be asked."""
    for templates in TEMPLATES.values():
        for template in templates:
            for shape in SHAPES:
                for colour in COLOURS:
                    yield template.format(**_words(shape, colour))


def _words(shape: str, colour: str) -> dict[str, str]:
    article = "an" if colour == "orange" else "a"
    return {"shape": shape, "colour": colour, "plural": PLURALS[shape], "article": article}


def _facts(kind: str, objects: Sequence[SceneObject]) -> Iterator[_Fact]:
    shapes = [item for item in objects if item.kind in SHAPES]
    per_shape, per_colour = Counter(item.kind for item in shapes), Counter(item.colour for item in shapes)
    if kind == "colour":
        yield from (_Fact({"shape": s.kind}, s.colour, (s.relevant,)) for s in shapes if per_shape[s.kind] == 1)
    elif kind == "shape":
        yield from (_Fact({"colour": s.colour}, s.kind, (s.relevant,)) for s in shapes if per_colour[s.colour] == 1)
    elif kind == "count":
        for shape in SHAPES:
            if per_shape[shape] <= MAX_COUNT:
                boxes = tuple(item.relevant for item in shapes if item.kind == shape)
                yield _Fact({"plural": PLURALS[shape]}, str(len(boxes)), boxes)
    else:
        bearer = {"digit": "card", "word": "sign", "number": "plate"}[kind]
        bearers = [item for item in objects if item.kind == bearer]
        per_colour = Counter(item.colour for item in bearers)
        for item in bearers:
            if per_colour[item.colour] == 1:
                yield _Fact({"colour": item.colour}, item.text, (item.relevant,), by_colour=len(bearers) > 1)


def _ask(rng: Random, kind: str, facts: Sequence[_Fact]) -> Question:
    fact = rng.choice(facts)
    if kind == "count" and fact.answer == "0" and rng.random() < 0.7:
        fact = rng.choice([other for other in facts if other.answer != "0"] or [fact])
    template = rng.choice([text for text in TEMPLATES[kind] if "{colour}" in text or not fact.by_colour])
    return Question(kind, template.format(**fact.words), fact.answer, fact.boxes)


def _exist(rng: Random, objects: Sequence[SceneObject]) -> Question:
    """Ask whether something is there: half the time it is; otherwise often only its shape or its colour is."""
    shapes = [item for item in objects if item.kind in SHAPES]
    template = rng.choice(TEMPLATES["exist"])
    by_colour = "{colour}" in template
    shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    if shapes and rng.random() < 0.5:
        chosen = rng.choice(shapes)
        shape, colour = chosen.kind, chosen.colour
    elif not by_colour:
        present = {item.kind for item in shapes}
        shape = rng.choice([other for other in SHAPES if other not in present] or [shape])
    elif shapes and rng.random() < 0.6:
        near = rng.choice(shapes)
        shape, colour = (near.kind, colour) if rng.random() < 0.5 else (shape, near.colour)
    hits = tuple(item.relevant for item in shapes if item.kind == shape and (not by_colour or item.colour == colour))
    return Question("exist", template.format(**_words(shape, colour)), "yes" if hits else "no", hits)
