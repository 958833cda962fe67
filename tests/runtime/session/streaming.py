"""Frames of a camera, and sessions whose visual tokens are seen."""

from typing import Any

import numpy as np

from glimpse_runtime import load

QUESTION = "What colour is the circle?"
SHAPE = (12, 16)
CELL = 28


class Traced:
    """A session with the visual tokens that it computed last."""

    def __init__(self) -> None:
        self.embeds = np.empty(0)
        self.vlm = load(scene_cache_bytes=0, trace=self._see)

    def _see(self, name: str, value: Any) -> None:
        if name == "image_embeds":
            self.embeds = np.array(value)


def picture(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Smooth structure of so many cells."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (shape[0], shape[1], 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, CELL, 0), CELL, 1).round().astype(np.uint8)


def noisy(frame: np.ndarray, seed: int, sigma: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


def changed(frame: np.ndarray, row: int, column: int, by: int = 60) -> np.ndarray:
    """The frame with another cell."""
    out = frame.copy()
    part = out[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    part[...] = part + by
    return out


def window(row: int, column: int) -> np.ndarray:
    """The 4 x 4 cells (112 pixels) that hold a cell."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[row // 4 * 4 :, column // 4 * 4 :][:4, :4] = True
    return mask.reshape(-1)
