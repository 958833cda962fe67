"""A camera that stands still: in every frame some objects of a scene move, or others come in their places."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image

from glimpse_models.pocket.scenes.backgrounds import background
from glimpse_models.pocket.scenes.scenes import (
    Cutout,
    Scene,
    SceneObject,
    cut_out,
    free_corner,
    placement_order,
    usual_objects,
)
from glimpse_models.pocket.scenes.sprites import COLOURS, SHAPES, Box
from glimpse_models.pocket.scenes.texts import DIGITS, Split, plate_text, sign_text

_REPLACED = 0.7
_ATTEMPTS = 20
_TEXTS = {"sign": sign_text, "plate": plate_text}


class Camera:
    """One scene over time."""

    def __init__(self, rng: Random, width: int, height: int, sigma: float, split: Split = "test") -> None:
        """Draw the first frame.

        Args:
            rng: Source of every random choice but the noise.
            width: Width in pixels.
            height: Height in pixels.
            sigma: Standard deviation of the noise of every pixel, in levels of 255.
            split: Whose photographs, words and numbers to use.
        """
        self._rng, self._split, self._sigma = rng, split, sigma
        self._noise = np.random.default_rng(rng.getrandbits(32))
        self._background = background(rng, width, height, split)
        self._placed: list[tuple[Cutout, tuple[int, int]]] = []
        for item in sorted(usual_objects(rng, width * height, split), key=placement_order):
            cutout = cut_out(rng, item, small=False)
            corner = free_corner(rng, cutout.sprite.size, self._background.size, self._taken())
            if corner is not None:
                self._placed.append((cutout, corner))

    def change(self) -> None:
        """Move one object, or put another of its kind, with another text, shape or colour, in its place."""
        for _ in range(_ATTEMPTS):
            index = self._rng.randrange(len(self._placed))
            cutout, corner = self._placed[index]
            if self._rng.random() < _REPLACED:
                cutout = cut_out(self._rng, self._other(cutout.item), small=False)
                if not self._fits(cutout, corner, index):
                    continue
                self._placed[index] = cutout, corner
                return
            found = free_corner(self._rng, cutout.sprite.size, self._background.size, self._taken(index))
            if found is not None:
                self._placed[index] = cutout, found
                return

    def shot(self) -> Scene:
        """Take a frame, with noise of its own."""
        image = self._background.copy()
        objects = tuple(cutout.paste(image, corner) for cutout, corner in self._placed)
        pixels = np.asarray(image) + self._noise.normal(0, self._sigma, (image.height, image.width, 3))
        return Scene(Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), objects)

    def _other(self, item: SceneObject) -> SceneObject:
        if item.kind in _TEXTS:
            return SceneObject(item.kind, item.colour, _TEXTS[item.kind](self._rng, self._split))
        if item.kind == "card":
            return SceneObject(item.kind, item.colour, self._rng.choice(DIGITS))
        return SceneObject(self._rng.choice(SHAPES), self._rng.choice(list(COLOURS)))

    def _fits(self, cutout: Cutout, corner: tuple[int, int], index: int) -> bool:
        left, top, right, bottom = _box(cutout, corner)
        if right > self._background.width or bottom > self._background.height:
            return False
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self._taken(index)
        )

    def _taken(self, without: int | None = None) -> list[Box]:
        return [_box(*placed) for index, placed in enumerate(self._placed) if index != without]


def _box(cutout: Cutout, corner: tuple[int, int]) -> Box:
    (left, top), (width, height) = corner, cutout.sprite.size
    return left, top, left + width, top + height
