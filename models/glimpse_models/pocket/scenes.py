"""Composes scenes: shapes, digit cards, a sign and a plate on a background, every object with its box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from PIL import Image, ImageFilter

from glimpse_models.pocket.backgrounds import background
from glimpse_models.pocket.sprites import COLOURS, FONTS, SHAPES, Box, Glyph, lettered_sprite, shape_sprite
from glimpse_models.pocket.texts import DIGITS, Split, plate_text, sign_text

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
    for item in sorted(wanted, key=lambda item: _PLACEMENT_ORDER.get(item.kind, 3)):
        sprite = _sprite(rng, item, small=width * height < _SMALL_AREA)
        corner = _free_corner(rng, sprite.size, image.size, placed)
        if corner is None:
            continue
        left, top = corner
        item.box = (left, top, left + sprite.width, top + sprite.height)
        item.glyphs = [(character, left + x, top + y) for character, x, y in item.glyphs]
        if item.written:
            x0, y0, x1, y1 = item.written
            item.written = (left + x0, top + y0, left + x1, top + y1)
        image.paste(sprite, corner, sprite)
        placed.append(item)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
    return Scene(image, tuple(placed))


def _usual_objects(rng: Random, area: int, split: Split) -> list[SceneObject]:
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
    "usual": _usual_objects,
    "few": _few_objects,
    "lettered": _lettered_objects,
}


def _sprite(rng: Random, item: SceneObject, small: bool) -> Image.Image:
    """Draw the object's sprite and note its text, relative to the sprite."""
    if item.kind in SHAPES:
        return shape_sprite(rng, item.kind, item.colour, rng.randint(28, 48) if small else rng.randint(30, 80))
    smallest, largest = (26, 40 if small else 52) if item.kind == "card" else (26, 34 if small else 40)
    size = rng.randint(smallest, largest)
    sprite, item.glyphs, item.written = lettered_sprite(rng, item.kind, item.colour, item.text, rng.choice(FONTS), size)
    return sprite


def _free_corner(
    rng: Random, size: tuple[int, int], canvas: tuple[int, int], placed: list[SceneObject]
) -> tuple[int, int] | None:
    width, height = size
    if width >= canvas[0] or height >= canvas[1]:
        return None
    for _ in range(_ATTEMPTS):
        left, top = rng.randint(0, canvas[0] - width), rng.randint(0, canvas[1] - height)
        if all(_apart((left, top, left + width, top + height), other.box) for other in placed):
            return left, top
    return None


def _apart(first: Box, second: Box) -> bool:
    return (
        first[2] + _GAP < second[0]
        or second[2] + _GAP < first[0]
        or first[3] + _GAP < second[1]
        or second[3] + _GAP < first[1]
    )
