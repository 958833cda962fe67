"""Checkpoints that look like published ones of Qwen2.5-VL."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.export.checkpoints.family import CheckpointFamily, Weights, Words
from benchmarks.export.checkpoints.formats import BFLOAT16_SAFETENSORS
from benchmarks.export.checkpoints.qwen2_5_vl.files import MARKED_TOKENS, Vocabulary, base_files
from benchmarks.export.checkpoints.qwen2_5_vl.tower import Tower
from glimpse_export.graphs import decoder
from glimpse_export.model.architecture import Architecture
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims
from glimpse_models.qwen2_5_vl.facts.published import adapter_config
from glimpse_models.qwen2_5_vl.heavy import vision


def _files(dims: QwenDims) -> Mapping[str, Mapping[str, Any] | bytes]:
    base = {f"base/{name}": content for name, content in base_files(dims).items()}
    return {**base, "adapter/config.json": adapter_config(dims)}


def _words(dims: QwenDims) -> Words:
    vocabulary = Vocabulary(dims.vocab_size)
    return Words(vocabulary.words, [vocabulary.special(token) for token in MARKED_TOKENS])


def _weights(architecture: Architecture) -> Mapping[str, Weights]:
    shapes = decoder.expected_tensors(architecture) | vision.expected_tensors(architecture.vision)
    return {"base": Weights(BFLOAT16_SAFETENSORS, shapes)}


def _cut_vision(dims: QwenDims, depth: int) -> QwenDims:
    full = tuple(range(depth - 1, -1, -8))[::-1]
    taps = tuple(range(depth - 1, -1, -max(depth // 4, 1)))[:4]
    return dataclasses.replace(dims, vision_depth=depth, full_attention=full, taps=taps)


QWEN2_5_VL = CheckpointFamily(_files, _words, _weights, Tower, _cut_vision)
