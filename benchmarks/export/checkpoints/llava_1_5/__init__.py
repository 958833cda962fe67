"""Checkpoints that look like the authors' of LLaVA-1.5, with the vision tower in a folder of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.export.checkpoints.family import CheckpointFamily, Weights, Words
from benchmarks.export.checkpoints.formats import FLOAT16_PICKLES, FLOAT32_PICKLES
from benchmarks.export.checkpoints.llava_1_5.files import base_files
from benchmarks.export.checkpoints.llava_1_5.tokenizer import MARKED, tokenizer_model
from benchmarks.export.checkpoints.llava_1_5.tower import Tower
from glimpse_export.graphs import decoder
from glimpse_export.model.architecture import Architecture
from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.llava_1_5.facts.published import TOWER, adapter_config, tower_files
from glimpse_models.llava_1_5.heavy import vision


def _files(dims: LlavaDims) -> Mapping[str, Mapping[str, Any] | bytes]:
    files: dict[str, Mapping[str, Any] | bytes] = {"base/tokenizer.model": tokenizer_model(dims.vocab_size)}
    files |= {f"base/{name}": content for name, content in base_files(dims).items()}
    files |= {f"{TOWER}/{name}": content for name, content in tower_files(dims).items()}
    return {**files, "adapter/config.json": adapter_config(dims)}


def _weights(architecture: Architecture) -> Mapping[str, Weights]:
    """The tower has all of its blocks, also those that nothing is read of, but not the text half of CLIP."""
    tower = architecture.vision
    whole = vision.expected_tensors(dataclasses.replace(tower, depth=tower.tower_depth))
    of_base = {name: shape for name, shape in whole.items() if name.startswith(vision.PROJECTOR)}
    of_tower = {name: shape for name, shape in whole.items() if name not in of_base}
    of_tower |= {f"vision_model.post_layernorm.{part}": (tower.hidden_size,) for part in ("weight", "bias")}
    return {
        "base": Weights(FLOAT16_PICKLES, decoder.expected_tensors(architecture) | of_base),
        TOWER: Weights(FLOAT32_PICKLES, of_tower, always_index=False),
    }


def _cut_vision(dims: LlavaDims, depth: int) -> LlavaDims:
    taps = tuple(range(depth - 2, -1, -max(depth // 4, 1)))[:4]
    return dataclasses.replace(dims, vision_depth=depth, taps=taps)


LLAVA_1_5 = CheckpointFamily(
    _files, lambda dims: Words(dims.vocab_size, MARKED), _weights, Tower, _cut_vision, tower_folder=TOWER
)
