"""The families whose checkpoints can be made, by the kind of their dims."""

from collections.abc import Mapping

from benchmarks.export.checkpoints.family import CheckpointFamily
from benchmarks.export.checkpoints.llava_1_5 import LLAVA_1_5
from benchmarks.export.checkpoints.qwen2_5_vl import QWEN2_5_VL
from glimpse_models import Dims
from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims

FAMILIES: Mapping[type[Dims], CheckpointFamily] = {QwenDims: QWEN2_5_VL, LlavaDims: LLAVA_1_5}
