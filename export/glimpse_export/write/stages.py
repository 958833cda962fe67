"""The stages of a bundle that hold weights: what each consists of, and what its bytes depend on."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.graphs.dialects import Dialect, dialect
from glimpse_export.graphs.scorer import ScorerAuthor
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.targets import TARGETS
from glimpse_export.source.hashes import file_spec
from glimpse_export.weights.file import WeightFile, WeightLayout, data_type, tensor_bytes
from glimpse_export.weights.journal import StoredTensor
from glimpse_export.weights.precision import DEFAULT_PRECISION, INTEGER
from glimpse_export.write.sources import Sources
from glimpse_export.write.stamps import writers_code
from glimpse_runtime.bundle.checks import UPDATE_STAGE
from glimpse_runtime.bundle.dialects import graph_name
from glimpse_runtime.bundle.manifest import EmbeddingSpec, FileSpec

# The parts of an architecture that weights and graphs follow.
_PARTS = ("text", "vision", "glimpse", "scorer")
_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class WeightStage:
    """One file of weights and the graphs that read it.

    Attributes:
        name: the stage's name.
        file: the file of weights.
        author: stores the weights in order and gives the graphs.
        facts: what the bytes depend on beside base and LoRA weights, the model's dimensions and the code.
    """

    name: str
    file: str
    author: Callable[[Plan, WeightLayout], Iterator[GraphBuilder]]
    facts: Callable[[Plan, Sources], dict[str, Any]]

    def layout(self, plan: Plan) -> WeightLayout:
        """Returns where every tensor of the file of weights will lie, without reading a weight."""
        layout = WeightLayout(Path(self.file))
        for _ in self.author(plan, layout):
            pass
        return layout

    def build(self, plan: Plan, folder: Path) -> dict[str, FileSpec]:
        """Writes the stage's files, going on where an earlier run was interrupted."""
        files = {}
        with WeightFile(folder / self.file) as weights:
            for graph in self.author(plan, weights):
                path = folder / f"{graph.name}.onnx"
                graph.save(path)
                files[path.name] = file_spec(path)
        return {self.file: weights.spec(), **files}

    def stamp_facts(self, plan: Plan, sources: Sources) -> dict[str, Any]:
        """Returns all that the stage's bytes depend on."""
        model, options = plan.architecture, plan.options
        return {
            "code": writers_code(plan.family),
            "libraries": {library.__name__: library.__version__ for library in (np, ir, ml_dtypes)},
            "base": sources.base,
            "lora": sources.lora,
            "tower": sources.tower,
            "model": {
                part: dataclasses.asdict(getattr(model, part)) for part in ("text", "vision", "glimpse", "scorer")
            },
            "family": model.family,
            "dialects": options.dialects,
            "gpu": _runs_on_cuda(plan),
            "trace": options.trace,
            **self.facts(plan, sources),
        }


def embedding_spec(plan: Plan) -> EmbeddingSpec:
    """Returns what the manifest says about the embedding table."""
    rows, columns = plan.checkpoint.shapes[_EMBEDDING]
    return EmbeddingSpec(WEIGHT_STAGES[0].file, plan.embedding_dtype, rows, columns)


def _embedding(plan: Plan, weights: WeightLayout) -> Iterator[GraphBuilder]:
    spec, table = embedding_spec(plan), plan.checkpoint.matrix(_EMBEDDING)
    weights.store(
        _EMBEDDING,
        data_type(np.dtype(spec.dtype)),
        (spec.rows, spec.columns),
        lambda: (table.read(*bounds).astype(spec.dtype) for bounds in table.runs()),
    )
    yield from ()


def _dialects(plan: Plan) -> Iterator[Dialect]:
    return (dialect(name, _runs_on_cuda(plan)) for name in plan.options.dialects)


def _runs_on_cuda(plan: Plan) -> bool:
    """Whether onnxruntime runs the graphs on a GPU."""
    return TARGETS[plan.options.target].name == "cuda"


def _graph(stage: str, spelled: Dialect, weights: WeightLayout, *precisions: str) -> GraphBuilder:
    return GraphBuilder(graph_name(stage, spelled.name), weights, spelled.opset(precisions))


def _vision(plan: Plan, weights: WeightLayout) -> Iterator[GraphBuilder]:
    precision = plan.options.precision.vision
    for spelled in _dialects(plan):
        graph = _graph("vision", spelled, weights, precision)
        author = plan.family.vision_author(
            plan.architecture,
            plan.checkpoint,
            spelled,
            precision,
            attention=plan.options.vision_attention,
            trace=plan.options.trace,
        )
        author.author(graph)
        yield graph
        updating = plan.family.vision_update_author(plan.architecture, plan.checkpoint, spelled, precision)
        if updating is not None:
            update = _graph(UPDATE_STAGE, spelled, weights, precision)
            updating.author(update)
            yield update


def _score(plan: Plan, weights: WeightLayout) -> Iterator[GraphBuilder]:
    for spelled in _dialects(plan):
        graph = _graph("score", spelled, weights, DEFAULT_PRECISION)
        ScorerAuthor(plan.architecture, plan.adapter, spelled, plan.options.trace).author(graph)
        yield graph


def _text(plan: Plan, weights: WeightLayout) -> Iterator[GraphBuilder]:
    options, architecture = plan.options, plan.architecture
    precision, context = options.precision, plan.profiles["context"].max
    vectors = plan.adapter.glimpse_vectors(architecture.glimpse) if architecture.glimpse.length else None
    for spelled in _dialects(plan):
        author = DecoderAuthor(architecture, plan.checkpoint, spelled, precision, context, options.trace)
        lower = _graph("lower", spelled, weights, precision.lower, precision.lower_attention)
        author.lower(lower, vectors)
        yield lower
        upper = _graph("upper", spelled, weights, precision.upper, precision.head)
        author.upper(upper, tied_head(plan), options.head_parts)
        yield upper
        if spelled.fixed_cache:
            compact = _graph("compact", spelled, weights)
            author.compact(compact)
            yield compact


def tied_head(plan: Plan) -> StoredTensor | None:
    """Returns where the LM head lies when it is the embedding table."""
    if not plan.architecture.text.tied or plan.options.precision.head in INTEGER:
        return None
    spec = embedding_spec(plan)
    dtype, shape = data_type(spec.dtype), (spec.rows, spec.columns)
    return StoredTensor(spec.file, 0, tensor_bytes(dtype, shape), dtype, shape)


def _text_facts(plan: Plan, sources: Sources) -> dict[str, Any]:
    precision = dataclasses.asdict(plan.options.precision)
    del precision["vision"]
    facts: dict[str, Any] = {"adapter": sources.adapter, "precision": precision, "embedding": plan.embedding_dtype}
    if any(dialect(name).fixed_cache for name in plan.options.dialects):
        facts["context"] = plan.profiles["context"].max
    return {**facts, "head_parts": plan.options.head_parts}


def _vision_facts(plan: Plan, sources: Sources) -> dict[str, Any]:
    return {"precision": plan.options.precision.vision, "attention": plan.options.vision_attention}


WEIGHT_STAGES = (
    WeightStage("embedding", "embed_tokens.bin", _embedding, lambda plan, sources: {"dtype": plan.embedding_dtype}),
    WeightStage("vision", "vision.data", _vision, _vision_facts),
    WeightStage("score", "score.data", _score, lambda plan, sources: {"adapter": sources.adapter}),
    WeightStage("text", "text.data", _text, _text_facts),
)


def weight_bytes(plan: Plan) -> dict[str, int]:
    """Returns the size of every file of weights in the bundle."""
    return {stage.file: stage.layout(plan).nbytes for stage in WEIGHT_STAGES}
