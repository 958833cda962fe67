"""The rule that keeps visual tokens, attention, rotary embeddings, patches, and how close a run was to another."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def choose(probability: Tensor, rule: dict[str, Any], grids: list[tuple[int, int]]) -> Tensor:
    """The keep mask: threshold, cap, minimum, corners; all images count together."""
    keep = probability > rule["reduce_threshold"]
    order, total = probability.argsort(descending=True), len(probability)
    ratio, least = rule["max_remain_ratio"], rule["min_remain_num"]
    if ratio is not None and int(keep.sum()) / total > ratio:
        keep[:] = False
        keep[order[: int(ratio * total)]] = True
    if least is not None and keep.sum() < least:
        keep[order[:least]] = True
    for corner in rule["anchor_positions"] or ():
        rows, columns = grids[0]
        keep.view(rows, columns)[0 if corner[0] == "t" else -1, 0 if corner[1] == "l" else -1] = True
    return keep


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(heads, rows, size) to (rows, heads * size)."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
    return mixed.transpose(0, 1).flatten(1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns each pair (i, i + half) of the last axis."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def frequencies(size: int, theta: float) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, size, 2).float() / size)


def plane_angles(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """(items, size / 2): the first half follows the row, the second the column."""
    inverse = frequencies(size // 2, 10000.0)
    return torch.cat([axis[:, None].float() * inverse for axis in (rows, columns)], 1)


def patches(pictures: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(patches, 1176) of uint8 RGB pictures whose sides are multiples of 28, so that nothing is resized."""
    rows = []
    for picture in pictures:
        x = torch.tensor((picture / 255.0).astype(np.float32))
        x = (x - torch.tensor(mean)) / torch.tensor(std)
        for top in range(0, x.shape[0], 28):
            for left in range(0, x.shape[1], 28):
                for y, z in ((0, 0), (0, 14), (14, 0), (14, 14)):
                    patch = x[top + y : top + y + 14, left + z : left + z + 14].permute(2, 0, 1)
                    rows.append(patch[:, None].expand(3, 2, 14, 14).flatten())
    return torch.stack(rows) if rows else torch.zeros(0, 1176)


def margin(arrays: dict[str, np.ndarray], rule: dict[str, Any]) -> float:
    """How far the closest decision of a run is from going the other way: words, threshold, cap and minimum."""
    words = np.sort(arrays["logits_steps"], axis=1)
    gaps = [float((words[:, -1] - words[:, -2]).min())]
    if "mask_logits" in arrays:
        scores = np.sort(arrays["mask_logits"][-1].astype(np.float64))[::-1]
        threshold = rule["reduce_threshold"]
        gaps.append(float(np.abs(scores - math.log(threshold / (1 - threshold))).min()))
        for count in (int((rule["max_remain_ratio"] or 0) * len(scores)), rule["min_remain_num"] or 0):
            if 0 < count < len(scores):
                gaps.append(float(scores[count - 1] - scores[count]))
    return min(gaps)
