"""The weights of a GlimpsePrune adapter whose scorer keeps some visual tokens and drops others."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.export.checkpoints.draw import Recipe, draw
from benchmarks.export.checkpoints.residual import Residual
from glimpse_export.model.architecture import Architecture
from glimpse_export.source.adapter import expected_tensors

SCORE_STD = 2.0
"""Expected spread of the attention scores that the scorer reads."""
GLIMPSE_RMS = 0.15
LOGIT_STD, LOGIT_MEAN = 2.0, -1.8
"""About a fifth of the tokens lies above zero, as with the published adapters."""
QUIET = 0.3
STREAM_RMS = 1.2
"""Size of the scorer's stream, which its attention subtracts the mean of: a token is compared with its image. Without
that, what all tokens have in common keeps all or none."""


def write_adapter(path: Path, architecture: Architecture, tower: Residual, seed: int) -> None:
    """Writes ``new_modules_gp.pt``.

    Args:
        path: the file.
        architecture: the model.
        tower: the vision encoder's residual stream, which the scorer reads.
        seed: of the weights.
    """
    modules: dict[str, Any] = {}
    for name, shape in expected_tensors(architecture).items():
        values = draw(seed, name, shape, _recipe(name, shape, architecture, tower))
        tensor = torch.from_numpy(values).to(torch.bfloat16)
        module, _, rest = name.partition(".")
        if rest:
            modules.setdefault(module, {})[rest] = tensor
        else:
            modules[module] = tensor
    torch.save(modules, path)


def _recipe(name: str, shape: tuple[int, ...], architecture: Architecture, tower: Residual) -> Recipe:
    scorer = architecture.scorer
    if name == "learnable_embeddings":
        return Recipe(1.0)
    if "norm" in name:
        size = GLIMPSE_RMS if name.startswith("le_") else 1.0
        return Recipe(0.1 * size, size)
    unit = 1 / math.sqrt(shape[-1])
    if ".attn_out_projs." in name:
        return Recipe(0.0, LOGIT_MEAN) if name.endswith("bias") else Recipe(LOGIT_STD * unit)
    if name.endswith("bias"):
        return Recipe(0.02)
    if ".cond_in_projs." in name:
        return tower.reader(scorer.taps[int(name.split(".")[2])] + 1)
    if ".attn_in_proj." in name:
        return Recipe(unit / SCORE_STD, edit=_centre if architecture.glimpse.log_softmax else None)
    if name.endswith(("attn.v_proj.weight", "attn.o_proj.weight")):
        return Recipe(QUIET * unit, edit=_diagonal(1.0 if ".v_proj." in name else -STREAM_RMS))
    return Recipe(unit)


def _diagonal(size: float) -> Callable[[np.ndarray, int], None]:
    def add(values: np.ndarray, first: int) -> None:
        rows = np.arange(len(values))
        values[rows, first + rows] += np.float32(size)

    return add


def _centre(values: np.ndarray, first: int) -> None:
    """Takes what all columns share out of each row: logarithms of softmax have a large part in common."""
    values -= values.mean(axis=1, keepdims=True)
