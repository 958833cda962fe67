"""What a planned export will cost, and what its bundle will need at run time, before anything is written.

File sizes and the KV cache are exact. The rest is in proportion to measurements of Qwen2.5-VL-3B on two x86-64 cores
with onnxruntime's CPU provider; every constant says what was measured. Of GPUs nothing was: there weights count as they
are stored, and the rest as on a CPU.
"""

import math
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.dialects import dialect
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.targets import DEFAULT_TARGET, TARGETS
from glimpse_export.source.matrix import CHUNK_VALUES
from glimpse_export.weights.journal import StoredTensor
from glimpse_export.weights.precision import DEFAULT_PRECISION, INTEGER, STORED_DTYPES
from glimpse_export.weights.quantise import BLOCK
from glimpse_export.write.stages import WEIGHT_STAGES, WeightStage, tied_head
from glimpse_runtime.bundle.dialects import PLAIN
from glimpse_runtime.bundle.memory import DEFAULT_SCENE_CACHE_BYTES, ROWS_AT_ONCE, SPELLED_SCORE_BYTES

_MIB = 1 << 20
_FLOAT_BYTES = 4

# Export. Resident before the first matrix: python, numpy, and torch for the adapter.
_EXPORTER_BYTES = 330 * _MIB
# Bytes per value of a run of rows, as float32 and its copies while it is rounded; so many threads have one each.
_CASTING_BYTES = 16
_ROUNDING_BYTES = {"int4": 24}
# The same for what a LoRA adds to it.
_MERGING_BYTES = 4
_THREADS = 4
# Nanoseconds per weight, read, rounded, hashed and written.
_NS_PER_VALUE = {"int4": 10, "int8": 12, "float16": 10, "bfloat16": 8, "float32": 8}
# The same for merging a LoRA, beside its rank times this: 5 ns at rank 8, 10 ns at rank 64, of one core.
_MERGING_NS_PER_VALUE, _MERGING_NS_PER_RANK = 4.5, 0.1
_HASH_BYTES_PER_S = 500e6
_START_S = 3.0

# Run time. Resident without any weights: python, libraries, and a tokenizer of 150,000 words.
_PROCESS_BYTES = 145 * _MIB
# The CUDA context and the engine's libraries. Assumed.
_GPU_PROCESS_BYTES = 600 * _MIB
# onnxruntime keeps the sum of every block of integers, and a copy of its scale.
_BYTES_PER_BLOCK = 8
# Widest moment of the decoder, in float32 numbers per row and unit of its MLP's width: 170 MiB at 1,085 rows, 780 MiB
# at 4,000.
_MLP_WIDTHS = 4.5


@dataclass(frozen=True)
class StageEstimate:
    """Writing one file of weights.

    Attributes:
        name: the stage.
        file: the file.
        precision: what its matrices are written in.
        file_bytes: the file's size.
        peak_bytes: most memory of the exporting process meanwhile.
        seconds: how long it takes.
    """

    name: str
    file: str
    precision: str
    file_bytes: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class LoadedWeights:
    """What the engine holds of all weights, and of the largest matrix."""

    total_bytes: int
    largest_bytes: int


@dataclass(frozen=True)
class RunMemory:
    """Memory of a process that has loaded the bundle and answers the largest requests it allows.

    Attributes:
        weights: weights as the engine holds them, which may be wider than in the file.
        kv_cache: keys and values at the longest context.
        working: what is in flight for the largest image and the longest prompt, or while weights are loaded.
        scenes: the session's cache of the last images, at its default limit.
        process: interpreter, libraries and tokenizer.
    """

    weights: int
    kv_cache: int
    working: int
    scenes: int
    process: int

    @property
    def posts(self) -> dict[str, int]:
        """Bytes by name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.posts.values())


@dataclass(frozen=True)
class Estimate:
    """A plan in numbers.

    Attributes:
        stages: its files of weights in the order in which they are written.
        hash_seconds: reading the checkpoint once to know its contents; later exports remember.
        run: memory at run time.
    """

    stages: tuple[StageEstimate, ...]
    hash_seconds: float
    run: RunMemory

    @property
    def file_bytes(self) -> int:
        """Size of all weights."""
        return sum(stage.file_bytes for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Most memory of the exporting process."""
        return max(stage.peak_bytes for stage in self.stages)

    @property
    def seconds(self) -> float:
        """How long a first export takes."""
        return _START_S + self.hash_seconds + sum(stage.seconds for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers as JSON takes them."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "export": {
                "file_bytes": self.file_bytes,
                "peak_bytes": self.peak_bytes,
                "hash_seconds": self.hash_seconds,
                "seconds": self.seconds,
            },
            "run_time_bytes": {**self.run.posts, "total": self.run.total},
        }


def estimate(plan: Plan) -> Estimate:
    """Returns what an export will cost and its bundle will need."""
    lora_bytes = 0 if plan.lora is None else sum(path.stat().st_size for path in plan.lora.files)
    source_bytes = plan.checkpoint.source_bytes + lora_bytes
    stages = tuple(_stage(plan, stage) for stage in WEIGHT_STAGES)
    return Estimate(stages, source_bytes / _HASH_BYTES_PER_S, run_memory(plan, loaded_weights(plan)))


def loaded_weights(plan: Plan) -> LoadedWeights:
    """Returns what the engine will hold of the weights, of those that its dialect reads.

    The embedding table is not among them: it is mapped, and only the rows are read that a prompt names.
    """
    plan = plan.with_options(replace(plan.options, dialects=plan.options.dialects[:1]))
    tensors = [tensor for stage in WEIGHT_STAGES if stage.name != "embedding" for tensor in stage.layout(plan).tensors]
    head = tied_head(plan)
    loaded = _widened_bytes if TARGETS[plan.options.target].widens_weights else _stored_bytes
    sizes = [loaded(tensor) for tensor in (tensors if head is None else [*tensors, head])]
    return LoadedWeights(sum(sizes), max(sizes))


def run_memory(plan: Plan, weights: LoadedWeights) -> RunMemory:
    """Returns what the bundle will need at run time on its target."""
    on_cpu = plan.options.target == DEFAULT_TARGET
    return RunMemory(
        weights=weights.total_bytes,
        kv_cache=_cache_bytes(plan),
        # The engine arranges each matrix anew while it still has it as it was stored, before the first request.
        working=max(_activation_bytes(plan), weights.largest_bytes),
        scenes=DEFAULT_SCENE_CACHE_BYTES,
        process=_PROCESS_BYTES if on_cpu else _PROCESS_BYTES + _GPU_PROCESS_BYTES,
    )


def _stage(plan: Plan, stage: WeightStage) -> StageEstimate:
    layout = stage.layout(plan)
    kinds = {tensor: _kind(tensor) for tensor in layout.tensors}
    whole = [tensor.nbytes for tensor in layout.tensors if not _in_runs(plan, tensor)]
    threads = min(os.cpu_count() or 1, _THREADS)
    merging = 0 if plan.lora is None else _MERGING_BYTES
    runs = [
        (_ROUNDING_BYTES.get(kind, _CASTING_BYTES) + merging) * min(_values(tensor), threads * CHUNK_VALUES)
        for tensor, kind in kinds.items()
    ]
    return StageEstimate(
        stage.name,
        stage.file,
        _precision(plan, stage.name),
        layout.nbytes,
        _EXPORTER_BYTES + max(whole, default=0) + max(runs),
        sum(_values(tensor) * _NS_PER_VALUE[kind] for tensor, kind in kinds.items()) / 1e9
        + _merging_seconds(plan, stage.name),
    )


def _merging_seconds(plan: Plan, stage: str) -> float:
    products = {} if plan.lora is None else plan.lora.products
    vision = plan.family.vision_tensors(plan.architecture)
    return sum(
        math.prod(plan.checkpoint.shapes[name]) * (_MERGING_NS_PER_VALUE + _MERGING_NS_PER_RANK * product.rank) / 1e9
        for name, product in products.items()
        if stage == ("vision" if name in vision else "text")
    )


def _precision(plan: Plan, stage: str) -> str:
    chosen = plan.options.precision
    if stage == "text":
        parts = {part: getattr(chosen, part) for part in ("lower", "upper", "head")}
        same = len(set(parts.values())) == 1
        whole = chosen.lower if same else ", ".join(f"{part} {name}" for part, name in parts.items())
        attention = chosen.lower_attention
        return whole if attention == chosen.lower else f"{whole}, lower attention {attention}"
    return {"embedding": plan.embedding_dtype, "vision": chosen.vision}.get(stage, DEFAULT_PRECISION)


def _stored_bytes(tensor: StoredTensor) -> int:
    return tensor.nbytes


def _widened_bytes(tensor: StoredTensor) -> int:
    """On a CPU onnxruntime widens fp16 and bf16 matrices to float32 when it loads them."""
    if _kind(tensor) in INTEGER:
        return tensor.nbytes + _BYTES_PER_BLOCK * (_values(tensor) // BLOCK)
    return _FLOAT_BYTES * _values(tensor)


def _cache_bytes(plan: Plan) -> int:
    """Counted from the architecture, since a bundle's own count needs the graphs, which a plan does not have yet."""
    text = plan.architecture.text
    row = 2 * text.layers * text.kv_heads * dialect(plan.options.dialects[0]).cache_width(text.head_dim)
    return row * np.dtype(STORED_DTYPES[plan.options.precision.kv_cache]).itemsize * plan.profiles["context"].max


def _activation_bytes(plan: Plan) -> int:
    """All stages share one arena, so of the towers the wider one counts; arrays between stages come on top."""
    text, tower, scorer = plan.architecture.text, plan.architecture.vision, plan.architecture.scorer
    patches, visual_tokens, rows = (plan.profiles[name].max for name in ("patches", "visual_tokens", "rows"))
    run = min(rows, ROWS_AT_ONCE)
    decoder = _MLP_WIDTHS * run * text.intermediate_size + text.heads * run * rows  # the latter: attention scores
    # Scores and shares of one head and a run of rows; see graphs/received.py.
    received = 2 * patches**2 // plan.architecture.merge_unit if plan.options.vision_attention else 0
    spelled = _spelled_values(plan, patches)
    arena = max(plan.family.vision_working_values(plan.architecture, patches) + received + spelled, decoder)
    pixels = patches * tower.patch_values
    encoded = visual_tokens * (tower.out_size + len(scorer.taps) * tower.hidden_size)
    hidden = 2 * rows * text.hidden_size
    return round(_FLOAT_BYTES * (arena + pixels + encoded + hidden))


def _spelled_values(plan: Plan, patches: int) -> float:
    """Attention of every patch to every patch where it is spelled out, as if the engine fused nothing of it."""
    if PLAIN not in plan.options.dialects:
        return 0
    return plan.architecture.vision.heads * patches**2 * SPELLED_SCORE_BYTES / _FLOAT_BYTES


def _kind(tensor: StoredTensor) -> str:
    if tensor.dtype == ir.DataType.UINT8:
        return f"int{tensor.shape[2] * 8 // BLOCK}"
    return tensor.dtype.numpy().name


def _values(tensor: StoredTensor) -> int:
    if tensor.dtype == ir.DataType.UINT8:
        return math.prod(tensor.shape[:2]) * BLOCK
    return math.prod(tensor.shape)


def _in_runs(plan: Plan, tensor: StoredTensor) -> bool:
    """Whether only a few rows of it are held at a time: the embedding table, and an LM head that is not rounded."""
    text = plan.architecture.text
    return tensor.shape == (text.vocab_size, text.hidden_size)
