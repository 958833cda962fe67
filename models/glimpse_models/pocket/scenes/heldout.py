"""The held-out questions: scenes with photographs, words and numbers that training never showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from glimpse_models.pocket.scenes.questions import Question, ask
from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
from glimpse_models.pocket.scenes.texts import WORDS, Split

SIZES = ((448, 448), (224, 224), (640, 480), (336, 448), (672, 672), (500, 350), (896, 896), (800, 600))
"""Width and height in pixels of the scenes, in turn; some are no multiple of anything."""
QUESTIONS_PER_SCENE = 7


@dataclass(frozen=True)
class Sample:
    """One question about one scene; samples of one scene share the image."""

    scene: int
    image: Image.Image
    question: Question


def samples(count: int, seed: int = 0, split: Split = "test") -> Iterator[Sample]:
    """Yield ``count`` questions; the same arguments give the same questions, on any machine."""
    scene = 0
    while count > 0:
        rng = scene_rng(split, seed, scene)
        drawn = make_scene(rng, *SIZES[scene % len(SIZES)], split)
        for question in ask(rng, drawn.objects, min(count, QUESTIONS_PER_SCENE)):
            yield Sample(scene, drawn.image, question)
            count -= 1
        scene += 1


def known_words(count: int, seed: int = 0, split: Split = "test") -> Iterator[Sample]:
    """Yield ``count`` questions about signs whose words training did show, on the split's photographs."""
    scene = 0
    while count > 0:
        rng = scene_rng(split, seed, scene)
        drawn = make_scene(rng, *SIZES[scene % len(SIZES)], split, texts="train")
        for question in ask(rng, [item for item in drawn.objects if item.kind == "sign"], 2):
            if question.answer in WORDS["train"] and count > 0:
                yield Sample(scene, drawn.image, question)
                count -= 1
        scene += 1
