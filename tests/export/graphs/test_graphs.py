"""The finished graphs for TensorRT: nothing in them that it cannot import, or imports and then passes over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.slow import few

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import onnx
from support.bundles import options
from support.checkpoints import write_model
from support.variants import VARIANTS

from glimpse_export import export
from glimpse_export.graphs.compact import DOMAIN
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest

# What no TensorRT imports, or what one of its kinds says it imports and does not.
BANNED = {
    *("NonZero", "Compress", "Unique", "DynamicQuantizeLinear", "Swish"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"),
}
# TensorRT 10.3 reads opset 20; of what is newer it knows the blocks of integers alone.
LATER = {"Attention", "RotaryEmbedding", "RMSNormalization", "TensorScatter"}
# Inputs and outputs behind these are passed over (key lengths), refused (past, present) or mean another form (ids).
MOST_INPUTS = {"Attention": 4, "RotaryEmbedding": 3, "TensorScatter": 3, "RMSNormalization": 2, "DequantizeLinear": 2}
OPSETS = {
    "opset24": dict.fromkeys(PRECISIONS, 24),
    "plain": {**dict.fromkeys(PRECISIONS, 20), "int4": 21},
}
FOR_TENSORRT = tuple(OPSETS)
# Models in which inputs fall away.
PRUNED = (
    "no glimpse token",
    "pruned after the last layer",
    "reduce_layer beyond the model",
    "scorer within windows",
    "scorer without condition",
    "three layers in no order, log-softmax",
    "head size 6, KV heads = heads, bfloat16, other activations",
    "head size 12, one KV head, float16, sharded, tied",
)


def graphs_of(folder: Path, dialect: str) -> Iterator[tuple[str, Path, Any]]:
    """Yields stage, file and contents of every graph of a dialect."""
    manifest = manifest_of(folder)
    for stage, spec in manifest.stages_of(dialect).items():
        yield stage, folder / spec.file, onnx.load(folder / spec.file, load_external_data=False)


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json((folder / MANIFEST_NAME).read_text(), "manifest")


def check_graphs(folder: Path, precision: str) -> None:
    """Checks all graphs of a bundle."""
    profiles = set(manifest_of(folder).profiles)
    for dialect in FOR_TENSORRT:
        for stage, path, model in graphs_of(folder, dialect):
            where = f"{dialect} {stage}"
            onnx.checker.check_model(str(path), full_check=True)
            opset = {entry.domain: entry.version for entry in model.opset_import}
            # Neither holds matrices that are rounded, whatever the rest is.
            assert opset[""] == OPSETS[dialect]["fp32" if stage in ("score", "compact") else precision], where
            assert set(opset) <= ({"", DOMAIN} if stage == "compact" else {""}), where
            nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
            for node in nodes:
                assert node.op_type not in BANNED, where
                assert dialect == "opset24" or node.op_type not in LATER, where
                assert len(node.input) <= MOST_INPUTS.get(node.op_type, 99), where
                assert node.op_type != "Attention" or len(node.output) == 1, where
            assert unused_inputs(model.graph) == set(), where
            assert dimensions(model.graph) <= profiles, where


def unused_inputs(graph: Any) -> set[str]:
    """Returns the inputs that no output depends on."""
    maker = {name: node for node in graph.node for name in node.output}
    waiting, seen = [value.name for value in graph.output], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += maker[name].input if name in maker else []
    return {value.name for value in graph.input} - seen


def dimensions(graph: Any) -> set[str]:
    """Returns the names of all dimensions that are not fixed."""
    dims = [dim for value in (*graph.input, *graph.output) for dim in value.type.tensor_type.shape.dim]
    return {dim.dim_param for dim in dims if not dim.HasField("dim_value")}


@pytest.mark.parametrize("precision", few(PRECISIONS, ["bf16", "int4"]))
def test_graphs_of_every_precision(precision: str, golden: Path, tmp_path: Path) -> None:
    chosen = Precision.choose(precision, gpu=True, vision=precision)
    asked = options(golden, dialects=FOR_TENSORRT, precision=chosen, vision_attention=True, head_parts=2)
    check_graphs(export(asked, tmp_path / "bundle"), precision)


@pytest.mark.parametrize("name", few(PRUNED, PRUNED[:2]))
def test_graphs_of_every_kind_of_model(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", **VARIANTS[name][0])
    check_graphs(export(options(folder, dialects=FOR_TENSORRT), tmp_path / "bundle"), "fp32")


def test_a_graph_that_is_wrong_is_found(golden: Path, tmp_path: Path) -> None:
    """The checks above see what they are for."""
    folder = export(options(golden, dialects=FOR_TENSORRT), tmp_path / "bundle")
    path = folder / "upper.plain.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.input.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, ["batch"]))
    assert unused_inputs(model.graph) == {"lengths"}
    assert "batch" in dimensions(model.graph)
    model.graph.node.append(onnx.helper.make_node("NonZero", ["lengths"], ["rows"]))
    onnx.save(model, path)
    with pytest.raises(AssertionError, match="plain upper"):
        check_graphs(folder, "fp32")


def test_inputs_of_every_dialect_have_profiles(golden: Path, tmp_path: Path) -> None:
    folder = export(options(golden, dialects=tuple(DIALECTS)), tmp_path / "bundle")
    manifest = manifest_of(folder)
    for stages in manifest.graphs.values():
        for stage in stages.values():
            names = {dim for tensor in stage.inputs for dim in tensor.shape if isinstance(dim, str)}
            assert names <= set(manifest.profiles)


def test_a_cache_has_the_length_of_the_profile(golden: Path, tmp_path: Path) -> None:
    folder = export(options(golden, dialects=FOR_TENSORRT, max_context=200, max_visual_tokens=50), tmp_path / "bundle")
    for dialect in FOR_TENSORRT:
        for stage, _, model in graphs_of(folder, dialect):
            shapes = {
                tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
                for value in (*model.graph.input, *model.graph.output)
                if value.name.startswith(("past.", "present."))
            }
            if stage == "vision_update":  # of an image's patches, whose number is no part of the graph
                assert shapes == {(0, 32)}
                continue
            assert shapes == ({(1, 2, 200, 16)} if stage in ("lower", "upper", "compact") else set())
    outputs = {tensor.name: tensor.shape for tensor in manifest_of(folder).graphs["plain"]["lower"].outputs}
    assert outputs["glimpse_attention"] == (4, 200)
