"""Draws the objects of a scene, one transparent sprite each: shapes, digit cards, word signs, number plates."""

from __future__ import annotations

import colorsys
import math
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from glimpse_models.pocket.scenes.backgrounds import package_file

Colour = tuple[int, int, int]
Point = tuple[float, float]
Glyph = tuple[str, float, float]
Box = tuple[int, int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
LETTERED = ("card", "sign", "plate")
KINDS = SHAPES + LETTERED
COLOURS: dict[str, Colour] = {
    "red": (214, 30, 36),
    "orange": (245, 135, 20),
    "yellow": (247, 221, 40),
    "green": (30, 150, 55),
    "blue": (30, 80, 205),
    "purple": (130, 45, 165),
    "black": (20, 20, 22),
    "white": (246, 246, 244),
}
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneralBol.ttf",
)
_OVERSAMPLING = 2


def shape_sprite(rng: Random, shape: str, colour: str, size: int) -> Image.Image:
    """Draw a shape of the named colour in a square of ``size`` pixels (RGBA)."""
    fill = jittered(rng, COLOURS[colour])
    side = size * _OVERSAMPLING
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    line = rng.choice([0, 0, 1, 2]) * _OVERSAMPLING
    edge = tuple(int(value * 0.45) for value in fill) if luminance(fill) > 60 else (120, 120, 120)
    centre, radius = side / 2, side / 2 - 1 - line / 2
    if shape == "circle":
        box = (centre - radius, centre - radius, centre + radius, centre + radius)
        draw.ellipse(box, fill=(*fill, 255), outline=(*edge, 255) if line else None, width=line)
    else:
        angle = math.radians(rng.uniform(-14, 14))
        cos, sin = 0.93 * radius * math.cos(angle), 0.93 * radius * math.sin(angle)
        points = [(centre + x * cos - y * sin, centre + x * sin + y * cos) for x, y in outline(shape)]
        draw.polygon(points, fill=(*fill, 255))
        if line:
            draw.line([*points, points[0]], fill=(*edge, 255), width=line, joint="curve")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def lettered_sprite(
    rng: Random, kind: str, colour: str, text: str, font_name: str, size: int
) -> tuple[Image.Image, list[Glyph], Box]:
    """Draw a card, sign or plate with its text.

    Returns:
        The sprite (RGBA), each character with the centre of its glyph, and the box of the text, in sprite pixels.
    """
    face = font(font_name, size)
    spacing = size // 10 if len(text) > 1 else 0
    advances = [face.getlength(character) + spacing for character in text]
    text_width, ascent = int(sum(advances)), int(size * 0.76)
    pad_x, pad_y = (int(size * rng.uniform(0.3, 0.55)) for _ in range(2))
    width, height = text_width + 2 * pad_x, ascent + 2 * pad_y
    if kind == "card":
        width = height = max(width, height)
    fill = jittered(rng, COLOURS[colour])
    low, high = (225, 255) if luminance(fill) < 140 else (0, 45)
    ink = tuple(rng.randint(low, high) for _ in range(3))
    corner, border = rng.choice([0, 3, 6]), rng.choice([0, 1, 2])
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle(
        (0, 0, width - 1, height - 1), corner, fill=(*fill, 255), outline=(*ink, 255) if border else None, width=border
    )
    left, baseline = (width - text_width) / 2, (height + ascent) / 2
    text_left = left
    glyphs: list[Glyph] = []
    for character, advance in zip(text, advances, strict=True):
        draw.text((left, baseline), character, font=face, fill=(*ink, 255), anchor="ls")
        glyphs.append((character, left + (advance - spacing) / 2, height / 2))
        left += advance
    written = (math.floor(text_left), math.floor(baseline - ascent), math.ceil(left - spacing), math.ceil(baseline))
    return image, glyphs, written


def outline(shape: str) -> list[Point]:
    """Return the corners of a shape inside the square from -1 to 1, y pointing down."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0, -0.95), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "star":
        radii = [1.0 if corner % 2 == 0 else 0.42 for corner in range(10)]
        angles = [corner * math.pi / 5 for corner in range(10)]
        return [
            (radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in zip(radii, angles, strict=True)
        ]
    if shape == "cross":
        arm, tip = 0.32, 0.95
        upper = [(-arm, -tip), (arm, -tip), (arm, -arm), (tip, -arm), (tip, arm), (arm, arm)]
        return upper + [(-x, -y) for x, y in upper]
    if shape == "heart":
        return [_heart_point(step / 40 * 2 * math.pi) for step in range(40)]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def _heart_point(angle: float) -> Point:
    rise = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return 16 * math.sin(angle) ** 3 / 17, -rise / 17 - 0.1


def jittered(rng: Random, colour: Colour) -> Colour:
    """Vary a colour a little without changing its name."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    if saturation > 0.3:
        hue = (hue + rng.uniform(-0.015, 0.015)) % 1
        saturation = min(1.0, max(0.45, saturation * rng.uniform(0.85, 1.1)))
    lightness = min(0.97, max(0.05, lightness + rng.uniform(-0.05, 0.05)))
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return int(255 * red), int(255 * green), int(255 * blue)


def luminance(colour: Colour) -> float:
    """Return the perceived brightness, 0 to 255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load one of the fonts that ship with matplotlib."""
    return ImageFont.truetype(str(package_file("matplotlib", "mpl-data/fonts/ttf") / name), size)
