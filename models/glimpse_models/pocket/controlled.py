"""Scenes in which one thing alone varies: how many objects a question is about, or how large the picture is."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from PIL import Image

from glimpse_models.pocket.model.config import CELL
from glimpse_models.pocket.scenes.backgrounds import background
from glimpse_models.pocket.scenes.questions import MAX_COUNT, PLURALS, TEMPLATES, Question
from glimpse_models.pocket.scenes.scenes import (
    Cutout,
    Scene,
    SceneObject,
    cut_out,
    free_corner,
    placement_order,
    usual_objects,
)
from glimpse_models.pocket.scenes.sprites import COLOURS, SHAPES, Box, shape_sprite
from glimpse_models.pocket.scenes.texts import DIGITS, Split, plate_text, sign_text

Corner = tuple[int, int]

SIDES = (224, 448, 672, 896)
"""Sides in pixels of the square pictures that show the same objects."""
_ATTEMPTS = 200
_SHAPE_SIZES = (30, 64)


def counting_scenes(
    rng: Random, shape: str, side: int, split: Split = "test", photos: tuple[str, ...] | None = None
) -> list[tuple[Scene, Question]]:
    """Draw one scene ``MAX_COUNT`` times, with 1, 2, ... objects of the shape that a question counts.

    All else is equal: the background, the places, sizes and colours of all objects, and how many there are. An object
    that is not yet of the shape asked about is of another.

    Args:
        rng: Source of every random choice.
        shape: The shape to count.
        side: Width and height in pixels.
        split: Whose photographs, words and numbers to use.
        photos: Other background photographs than those of the split (see ``background``).

    Returns:
        Each scene with the question, whose boxes are those of the shapes to count.

    Raises:
        LookupError: The objects find no place in so small a picture.
    """
    colours, others = list(COLOURS), [other for other in SHAPES if other != shape]
    bystanders = [
        SceneObject("sign", "white", sign_text(rng, split)),
        SceneObject("plate", "yellow", plate_text(rng, split)),
        SceneObject("card", rng.choice(colours), rng.choice(DIGITS)),
        *(SceneObject(rng.choice(others), rng.choice(colours)) for _ in range(2)),
    ]
    cutouts = [cut_out(rng, item, small=False) for item in bystanders]
    pairs = [_twins(rng, (shape, rng.choice(others)), rng.choice(colours)) for _ in range(MAX_COUNT)]
    corners = _corners(rng, [c.sprite.size for c in cutouts + [pair[0] for pair in pairs]], side)
    backdrop = background(rng, side, side, split, photos)
    text = rng.choice(TEMPLATES["count"]).format(plural=PLURALS[shape])
    made = []
    for count in range(1, MAX_COUNT + 1):
        chosen = [counted if index < count else other for index, (counted, other) in enumerate(pairs)]
        scene = _compose(backdrop, cutouts + chosen, corners)
        boxes = tuple(item.box for item in scene.objects if item.kind == shape)
        made.append((scene, Question("count", text, str(count), boxes)))
    return made


def resized_scenes(
    rng: Random, sides: Sequence[int] = SIDES, split: Split = "test", photos: tuple[str, ...] | None = None
) -> list[Scene]:
    """Draw the same objects on square pictures of several sizes.

    The objects are those that find room in the smallest picture. Their pixels are the same in all, and so is their
    place within a visual token, so they touch equally many tokens; the background is the same crop at each size.

    Args:
        rng: Source of every random choice.
        sides: Widths and heights in pixels, the smallest first.
        split: Whose photographs, words and numbers to use.
        photos: Other background photographs than those of the split (see ``background``).

    Raises:
        LookupError: The objects find no place in a larger picture.
    """
    smallest = sides[0]
    wanted = sorted(usual_objects(rng, smallest * smallest, split), key=placement_order)
    cutouts: list[Cutout] = []
    first: list[Corner] = []
    for cutout in (cut_out(rng, item, small=True) for item in wanted):
        taken = [_box(at, placed.sprite.size) for at, placed in zip(first, cutouts, strict=True)]
        corner = free_corner(rng, cutout.sprite.size, (smallest, smallest), taken)
        if corner is not None:
            cutouts.append(cutout)
            first.append(corner)
    seed = rng.random()
    scenes = []
    for side in sides:
        sizes = [cutout.sprite.size for cutout in cutouts]
        corners = first if side == smallest else _corners(rng, sizes, side, [(x % CELL, y % CELL) for x, y in first])
        scenes.append(_compose(background(Random(seed), side, side, split, photos), cutouts, corners))
    return scenes


def _twins(rng: Random, shapes: tuple[str, str], colour: str) -> tuple[Cutout, Cutout]:
    """Draw two shapes of the same colour, size and tilt."""
    size, seed = rng.randint(*_SHAPE_SIZES), rng.random()
    first, second = (
        Cutout(SceneObject(shape, colour), shape_sprite(Random(seed), shape, colour, size)) for shape in shapes
    )
    return first, second


def _corners(
    rng: Random, sizes: Sequence[tuple[int, int]], side: int, starts: Sequence[Corner] | None = None
) -> list[Corner]:
    """Draw a place for every box, where ``starts`` are given a whole number of visual tokens away from them."""
    for _ in range(_ATTEMPTS):
        corners: list[Corner] = []
        taken: list[Box] = []
        for index, size in enumerate(sizes):
            start, step = (starts[index], CELL) if starts else ((0, 0), 1)
            corner = free_corner(rng, size, (side, side), taken, start, step)
            if corner is None:
                break
            corners.append(corner)
            taken.append(_box(corner, size))
        else:
            return corners
    raise LookupError(f"{len(sizes)} objects find no place in {side} x {side} pixels; draw a larger picture")


def _box(corner: Corner, size: tuple[int, int]) -> Box:
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]


def _compose(backdrop: Image.Image, cutouts: Sequence[Cutout], corners: Sequence[Corner]) -> Scene:
    image = backdrop.copy()
    return Scene(image, tuple(cutout.paste(image, corner) for cutout, corner in zip(cutouts, corners, strict=True)))
