"""What the golden vectors of each model family call the arrays of the pipeline, and what shapes they have there.

Qwen2.5-VL: tests/golden/FORMAT.md; LLaVA-1.5: tests/golden/FORMAT-LLAVA.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.bundle.manifest import Manifest

Trace = Mapping[str, list[Array]]


class Qwen25VLNames:
    """Three axes of positions, several images, attention windows."""

    def images(self, folder: Path, case: Mapping[str, Any]) -> list[Path]:
        """Returns the case's images."""
        return [folder / image["file"] for image in case["images"]]

    def bundle_ids(self, ids: IntArray, manifest: Manifest) -> IntArray:
        """Returns golden ids as the bundle has them."""
        return ids

    def positions(self, positions: IntArray) -> IntArray:
        """Returns (axes, tokens) positions in the golden shape."""
        return positions[:, None]

    def decode_positions(self, positions: Sequence[IntArray]) -> IntArray:
        """Returns the (axes,) positions of decode steps in the golden shape."""
        return np.array(positions).reshape(-1, 3)

    def glimpse_positions(self, positions: IntArray) -> IntArray:
        """Returns the (axes, glimpse rows) positions in the golden shape."""
        return positions

    def of_prompt(self, positions: IntArray) -> dict[str, Array]:
        """Returns what follows from a prompt's (axes, tokens) positions."""
        return {"rope_deltas": np.array([[positions.max() + 1 - positions.shape[1]]])}

    def of_images(self, trace: Trace, grids: Sequence[tuple[int, ...]], manifest: Manifest) -> dict[str, Array]:
        """Joins the images of a prompt; window arrays continue from image to image."""
        merge = manifest.vision.merge_size
        unit = merge * merge
        order, ends, start = [], [np.zeros(1, np.int64)], 0
        for gather, keys in zip(trace["vision.window_gather"], trace["vision.window_keys"], strict=True):
            window_order = gather[keys.reshape(-1) > 0]
            order.append(window_order[::unit] // unit + start // unit)
            ends.append(start + np.cumsum(keys.sum(axis=1)))
            start += len(window_order)
        patches = [len(pixels) for pixels in trace["vision.pixel_values"]]
        return {
            "pixel_values": np.concatenate(trace["vision.pixel_values"]),
            "image_grid_thw": np.array([[1, rows * merge, columns * merge] for rows, columns in grids]),
            "window_index": np.concatenate(order),
            "cu_window_seqlens": np.concatenate(ends),
            "cu_seqlens": np.cumsum([0, *patches]),
        }


class Llava15Names:
    """One axis of positions, one image, a class token."""

    placeholder = -200

    def images(self, folder: Path, case: Mapping[str, Any]) -> list[Path]:
        """Returns the case's images."""
        return [folder / "images" / name for name in case["images"]]

    def bundle_ids(self, ids: IntArray, manifest: Manifest) -> IntArray:
        """Returns golden ids as the bundle has them, with an id of their own for visual tokens."""
        return np.where(ids == self.placeholder, manifest.tokens.image, ids)

    def positions(self, positions: IntArray) -> IntArray:
        """Returns (1, tokens) positions as they are."""
        return positions

    def decode_positions(self, positions: Sequence[IntArray]) -> IntArray:
        """Returns the (1,) positions of decode steps in a row."""
        return np.array(positions).reshape(-1)

    def glimpse_positions(self, positions: IntArray) -> IntArray:
        """Returns the (1, glimpse rows) positions in a row."""
        return positions.reshape(-1)

    def of_prompt(self, positions: IntArray) -> dict[str, Array]:
        """Returns nothing more."""
        return {}

    def of_images(self, trace: Trace, grids: Sequence[tuple[int, ...]], manifest: Manifest) -> dict[str, Array]:
        """Returns the arrays of the one image."""
        ((rows, columns),) = grids
        patch = manifest.vision.patch_size
        pixels = trace["vision.pixel_values"][0].reshape(rows, columns, 3, patch, patch).transpose(2, 0, 3, 1, 4)
        return {
            "pixel_values": pixels.reshape(1, 3, rows * patch, columns * patch),
            "grid_hw": np.array([rows, columns]),
            "clip_embeddings": trace["trace.clip_embeddings"][0],
            "projector_input": trace["trace.projector_input"][0],
        }


NAMES: Mapping[str, Qwen25VLNames | Llava15Names] = {"qwen2_5_vl": Qwen25VLNames(), "llava_1_5": Llava15Names()}
"""By the architecture of a bundle."""
