"""Backgrounds of the scenes: crops of photographs that ship with well-known packages, or noise."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from glimpse_models.pocket.scenes.texts import Split

PHOTO_SHARE = 0.75
PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "rocket.jpg",
        "retina.jpg",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "grass.png",
        "moon.png",
        "coins.png",
        "camera.png",
        "china.jpg",
        "cell.png",
        "microaneurysms.png",
    ),
    "validation": ("coffee.png", "gravel.png"),
    "test": ("chelsea.png", "flower.jpg", "brick.png", "grace_hopper.jpg"),
}
_FOLDERS = (("skimage", "data"), ("sklearn", "datasets/images"), ("matplotlib", "mpl-data/sample_data"))


def package_file(package: str, relative: str) -> Path:
    """Return the path of a data file inside an installed package, without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"{package} is needed to draw the pocket scenes; install it with: pip install 'glimpse-edge[pocket]'"
        )
    return Path(spec.origin).parent / relative


@cache
def photo(name: str) -> Image.Image:
    """Load one of the photographs by file name."""
    for package, folder in _FOLDERS:
        path = package_file(package, folder) / name
        if path.is_file():
            return Image.open(path).convert("RGB")
    raise FileNotFoundError(f"{name} ships with none of: {', '.join(package for package, _ in _FOLDERS)}")


def background(
    rng: Random, width: int, height: int, split: Split, photos: tuple[str, ...] | None = None
) -> Image.Image:
    """Draw a background.

    Args:
        rng: Source of every random choice.
        width: Width in pixels.
        height: Height in pixels.
        split: Whose photographs to crop.
        photos: Other photographs than those of the split; an empty tuple asks for a procedural background.

    Returns:
        An RGB image of ``width`` x ``height``.
    """
    choice = PHOTOS[split] if photos is None else photos
    if choice and rng.random() < PHOTO_SHARE:
        pixels = _photo_crop(rng, photo(rng.choice(choice)), width, height)
    else:
        pixels = _gradient_noise(rng, width, height)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _photo_crop(rng: Random, image: Image.Image, width: int, height: int) -> npt.NDArray[np.float32]:
    scale = rng.uniform(0.35, 1.0)
    crop_width = max(64, int(min(image.width, image.height * width / height) * scale))
    crop_height = min(int(crop_width * height / width), image.height)
    crop_width = min(crop_width, image.width)
    left = rng.randint(0, image.width - crop_width)
    top = rng.randint(0, image.height - crop_height)
    image = image.resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(left, top, left + crop_width, top + crop_height),
        reducing_gap=2.0,
    )
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image, dtype=np.float32)
    if rng.random() < 0.4:
        pixels = pixels[:, :, rng.sample([0, 1, 2], 3)]
    return pixels * np.float32(rng.uniform(0.6, 1.15)) + np.float32(rng.uniform(-15, 25))


def _gradient_noise(rng: Random, width: int, height: int) -> npt.NDArray[np.float32]:
    start, stop = (np.array([rng.uniform(20, 235) for _ in range(3)], np.float32) for _ in range(2))
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = columns * np.float32(math.cos(angle) / width) + rows * np.float32(math.sin(angle) / height)
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    pixels = start * (1 - ramp[..., None]) + stop * ramp[..., None]
    cells = rng.choice([4, 8, 16, 32])
    grain = np.random.RandomState(rng.randrange(1 << 30)).rand(cells, cells, 3) * 255
    noise = Image.fromarray(grain.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    weight = np.float32(rng.uniform(0, 0.6))
    mixed: npt.NDArray[np.float32] = pixels * (1 - weight) + np.asarray(noise, np.float32) * weight
    return mixed
