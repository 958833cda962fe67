"""Composes scenes: shapes, digit cards, a sign and a plate on a background, every object with its box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from PIL import Image, ImageFilter

from glimpse_models.pocket.scenes.backgrounds import background
from glimpse_models.pocket.scenes.sprites import COLOURS, FONTS, SHAPES, Box, Glyph, lettered_sprite, shape_sprite
from glimpse_models.pocket.scenes.texts import DIGITS, Split, plate_text, sign_text

Contents = Literal["usual", "few", "lettered"]

SIGN_COLOURS = ("white", "yellow", "green", "blue", "black")
PLATE_COLOURS = ("white", "yellow", "black")
_PLACEMENT_ORDER = {"sign": 0, "plate": 1, "card": 2}
_GAP = 3
_ATTEMPTS = 25
_SMALL_AREA = 1.5 * 224 * 224


@dataclass
class SceneObject:
    """One thing in a scene.

    Attributes:
        kind: A shape, or ``card``, ``sign`` or ``plate``.
        colour: Name of its colour.
        text: What is written on it.
        box: Left, top, right and bottom in pixels.
        glyphs: Each character with the centre of its glyph in pixels.
        written: The box of the text in pixels, if there is one.
    """

    kind: str
    colour: str
    text: str = ""
    box: Box = (0, 0, 0, 0)
    glyphs: list[Glyph] = field(default_factory=list)
    written: Box | None = None

    @property
    def relevant(self) -> Box:
        """The box that answers a question about the object: its text, or all of it."""
        return self.written or self.box


@dataclass(frozen=True)
class Cutout:
    """An object that has no place yet, with its sprite (RGBA); boxes and glyphs are relative to the sprite."""

    item: SceneObject
    sprite: Image.Image

    def paste(self, image: Image.Image, corner: tuple[int, int]) -> SceneObject:
        """Paste the sprite with its left and top edge at ``corner`` and return the object where it now is."""
        left, top = corner
        image.paste(self.sprite, corner, self.sprite)
        written = self.item.written
        return replace(
            self.item,
            box=(left, top, left + self.sprite.width, top + self.sprite.height),
            glyphs=[(character, left + x, top + y) for character, x, y in self.item.glyphs],
            written=written and (left + written[0], top + written[1], left + written[2], top + written[3]),
        )


@dataclass(frozen=True)
class Scene:
    """An image and the objects placed in it."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


def scene_rng(split: Split, seed: int, index: int) -> Random:
    """Return the random source of scene ``index`` of a split: equal arguments give equal scenes, anywhere."""
    return Random(f"{split}/{seed}/{index}")


def make_scene(
    rng: Random,
    width: int,
    height: int,
    split: Split = "train",
    contents: Contents = "usual",
    photos: tuple[str, ...] | None = None,
    texts: Split | None = None,
) -> Scene:
    """Draw a scene.

    Args:
        rng: Source of every random choice.
        width: Width in pixels.
        height: Height in pixels.
        split: Whose photographs, words and numbers to use.
        contents: ``few``: two or three objects, all of them different; ``lettered``: as much to read as finds room
            (both for training only).
        photos: Other background photographs than those of the split (see ``background``).
        texts: Another split for words and numbers.

    Returns:
        The picture with the objects that found a place; they never overlap.
    """
    wanted = _DRAWN[contents](rng, width * height, texts or split)
    image = background(rng, width, height, split, photos)
    placed: list[SceneObject] = []
    for item in sorted(wanted, key=placement_order):
        cutout = cut_out(rng, item, small=width * height < _SMALL_AREA)
        corner = free_corner(rng, cutout.sprite.size, image.size, [other.box for other in placed])
        if corner is not None:
            placed.append(cutout.paste(image, corner))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
    return Scene(image, tuple(placed))


def placement_order(item: SceneObject) -> int:
    """Return the sort key that places wide objects before the room is cut up."""
    return _PLACEMENT_ORDER.get(item.kind, 3)


def usual_objects(rng: Random, area: int, split: Split) -> list[SceneObject]:
    """Draw the objects of an ordinary scene of ``area`` square pixels, before any has a place."""
    relative = area / (224 * 224)
    shape_count = rng.randint(2, max(3, min(9, int(2 + 2.2 * relative))))
    objects: list[SceneObject] = []
    if rng.random() < 0.5:
        shape = rng.choice(SHAPES)
        objects += [SceneObject(shape, rng.choice(list(COLOURS))) for _ in range(rng.randint(2, 4))]
    while len(objects) < shape_count:
        objects.append(SceneObject(rng.choice(SHAPES), rng.choice(list(COLOURS))))
    roomy = area >= _SMALL_AREA
    card_colours = rng.sample(list(COLOURS), rng.randint(1, 3 if roomy else 2))
    objects += [SceneObject("card", colour, rng.choice(DIGITS)) for colour in card_colours]
    if rng.random() < 0.9:
        colours = rng.sample(SIGN_COLOURS, rng.randint(1, 2 if roomy else 1))
        objects += [SceneObject("sign", colour, sign_text(rng, split)) for colour in colours]
    if rng.random() < 0.8:
        colours = rng.sample(PLATE_COLOURS, rng.randint(1, 2 if roomy else 1))
        objects += [SceneObject("plate", colour, plate_text(rng, split)) for colour in colours]
    return objects


def _few_objects(rng: Random, area: int, split: Split) -> list[SceneObject]:
    shapes, colours = rng.sample(SHAPES, 2), rng.sample(list(COLOURS), 3)
    candidates = [
        SceneObject(shapes[0], colours[0]),
        SceneObject(shapes[1], colours[1]),
        SceneObject("card", colours[2], rng.choice(DIGITS)),
        SceneObject("sign", rng.choice(SIGN_COLOURS), sign_text(rng, split)),
        SceneObject("plate", rng.choice(PLATE_COLOURS), plate_text(rng, split)),
    ]
    return rng.sample(candidates, rng.choice([2, 3]))


def _lettered_objects(rng: Random, area: int, split: Split) -> list[SceneObject]:
    """Draw more signs, plates and cards than usual: what a vision encoder learns slowest."""
    relative = max(1.0, area / (224 * 224))
    signs, plates, cards, shapes = (round(count * relative) for count in (4, 1, 1, 2))
    colours, sign_colours = list(COLOURS), rng.sample(SIGN_COLOURS, len(SIGN_COLOURS))
    return [
        *(SceneObject("sign", sign_colours[i % len(SIGN_COLOURS)], sign_text(rng, split)) for i in range(signs)),
        *(SceneObject("plate", rng.choice(PLATE_COLOURS), plate_text(rng, split)) for _ in range(plates)),
        *(SceneObject("card", rng.choice(colours), rng.choice(DIGITS)) for _ in range(cards)),
        *(SceneObject(rng.choice(SHAPES), rng.choice(colours)) for _ in range(shapes)),
    ]


_DRAWN: dict[Contents, Callable[[Random, int, Split], list[SceneObject]]] = {
    "usual": usual_objects,
    "few": _few_objects,
    "lettered": _lettered_objects,
}


def cut_out(rng: Random, item: SceneObject, small: bool) -> Cutout:
    """Draw an object's sprite.

    Args:
        rng: Source of every random choice.
        item: Kind, colour and text.
        small: Whether it must suit a small image.
    """
    if item.kind in SHAPES:
        size = rng.randint(28, 48) if small else rng.randint(30, 80)
        return Cutout(item, shape_sprite(rng, item.kind, item.colour, size))
    smallest, largest = (26, 40 if small else 52) if item.kind == "card" else (26, 34 if small else 40)
    size = rng.randint(smallest, largest)
    sprite, glyphs, written = lettered_sprite(rng, item.kind, item.colour, item.text, rng.choice(FONTS), size)
    return Cutout(replace(item, glyphs=glyphs, written=written), sprite)


def free_corner(
    rng: Random,
    size: tuple[int, int],
    canvas: tuple[int, int],
    taken: Sequence[Box],
    start: tuple[int, int] = (0, 0),
    step: int = 1,
) -> tuple[int, int] | None:
    """Draw a place for a box of ``size`` that is apart from others.

    Args:
        rng: Source of the places tried.
        size: Width and height of the box in pixels.
        canvas: Width and height of the image in pixels.
        taken: The boxes to keep away from.
        start: The leftmost and topmost corner to try, in pixels.
        step: Distance between the corners to try, in pixels.

    Returns:
        Left and top in pixels; None when it does not fit, or no place was found in some attempts.
    """
    width, height = size
    if start[0] + width >= canvas[0] or start[1] + height >= canvas[1]:
        return None
    for _ in range(_ATTEMPTS):
        left = rng.randrange(start[0], canvas[0] - width + 1, step)
        top = rng.randrange(start[1], canvas[1] - height + 1, step)
        if all(_apart((left, top, left + width, top + height), other) for other in taken):
            return left, top
    return None


def _apart(first: Box, second: Box) -> bool:
    return (
        first[2] + _GAP < second[0]
        or second[2] + _GAP < first[0]
        or first[3] + _GAP < second[1]
        or second[3] + _GAP < first[1]
    )
