"""The certificate of bundles for TensorRT: what onnxruntime can run of them is checked like any other bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.slow import few, slow

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx
from support.bundles import options
from support.certified import VARIANTS, Written, other_eps, sabotage
from support.checkpoints import write_model

from glimpse_export import export
from glimpse_export.certify.written.halves import without_bfloat16
from glimpse_export.errors import CertificateError
from glimpse_export.graphs import compact
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_export.graphs.dialects.plain import PlainDialect
from glimpse_export.graphs.dialects.products import FusedProduct
from glimpse_export.weights.precision import PRECISIONS, Precision

FOR_TENSORRT = ("opset24", "plain")
BFLOAT16 = onnx.TensorProto.BFLOAT16


def write(model: Path, out: Path, precision: str = "fp32", **changes: Any) -> Written:
    chosen = Precision.choose(precision, gpu="ort" not in changes.get("dialects", ()), vision=precision)
    asked = options(model, **{"dialects": FOR_TENSORRT, "precision": chosen, **changes})
    return Written(asked, export(asked, out))


@pytest.mark.parametrize("precision", few(PRECISIONS, ["fp16"]))
def test_every_precision_passes(precision: str, golden: Path, tmp_path: Path) -> None:
    found = write(golden, tmp_path / "bundle", precision).certify("full" if precision == "fp32" else "quick")
    assert found.passed
    stages = {check.stage for check in found.checks}
    parts = ("vision", "vision_update", "lower", "score", "select", "upper", "decode", "compact")
    assert stages == {"preprocess", "checkpoint", "embedding", *(f"{p}.{d}" for p in parts for d in FOR_TENSORRT)}
    if precision != "fp32":
        errors = [check.value for check in found.checks if check.measure == "layer_error"]
        assert max(errors) > {"fp16": 1e-4, "bf16": 1e-3, "int8": 1e-3, "int4": 1e-2}[precision], "nothing was rounded"


@slow
def test_all_dialects_together(golden: Path, tmp_path: Path) -> None:
    found = write(golden, tmp_path / "bundle", "int8", dialects=DIALECTS, head_parts=2).certify()
    assert {check.stage for check in found.checks} >= {"lower", "lower.opset24", "lower.plain"}
    assert "--head-parts 2 --dialect ort --dialect opset24 --dialect plain" in found.command


@pytest.mark.parametrize("name", few(VARIANTS, ["windows, log-softmax, two glimpse rows"]))
def test_every_kind_of_model_passes(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **VARIANTS[name], dtype="bfloat16")
    assert write(model, tmp_path / "bundle", "int4").certify().passed


def flip(raw: bytes) -> bytes:
    return bytes([raw[0] ^ 0x30]) + raw[1:]


def half_as_large(raw: bytes) -> bytes:
    return (np.frombuffer(raw, np.float16) / 2).astype(np.float16).tobytes()


CORRUPTIONS: dict[str, tuple[str, str, str, Callable[[bytes], bytes], str]] = {
    "an integer of four bits": ("int4", "upper.plain.onnx", "model.layers.5.mlp.gate_proj.weight", flip, "layer 5"),
    "an integer of eight bits": ("int8", "lower.plain.onnx", "model.layers.2.mlp.up_proj.weight", flip, "layer 2"),
    "scales of four bits": (
        *("int4", "lower.opset24.onnx", "model.layers.1.mlp.down_proj.weight.scale", half_as_large),
        "layer 1: wrong_weights model.layers.1.mlp.down_proj.weight",
    ),
    "scales of eight bits": (
        *("int8", "vision.opset24.onnx", "visual.blocks.1.mlp.down_proj.weight.scale", half_as_large),
        "vision.opset24, layer 1: wrong_weights visual.blocks.1.mlp.down_proj.weight",
    ),
    "a half": ("fp16", "vision.plain.onnx", "visual.blocks.2.mlp.up_proj.weight", half_as_large, "layer 2"),
    "a part of a head": ("int8", "upper.plain.onnx", "model.embed_tokens.weight.1", flip, "embed_tokens.weight is 1"),
}


@pytest.mark.parametrize("name", few(CORRUPTIONS, ["scales of four bits", "a half"]))
def test_corrupted_weights_are_named(name: str, golden: Path, tmp_path: Path) -> None:
    precision, graph, weight, change, expected = CORRUPTIONS[name]
    dialect = "plain" if "plain" in graph else "opset24"
    bundle = write(golden, tmp_path / "bundle", precision, dialects=(dialect,), head_parts=3)
    bundle.corrupt(graph, weight, change)
    message = str(bundle.failure())
    assert expected in message
    assert "wrong_weights" in message


def of_another_scale(original: Any, self: Any, g: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return original(self, g, g.op("Mul", q, g.constant(np.array(0.5, np.float16))), k, v, mask)


def blind(original: Any, self: Any, g: Any, seen: Any, context: int) -> Any:
    return g.op("Or", seen, g.op("Not", seen))


def swapped(original: Any, self: Any, g: Any, x: Any, cos: Any, sin: Any) -> Any:
    return original(self, g, x, sin, cos)


def half_attention(original: Any, self: Any, g: Any, scores: Any) -> Any:
    return g.op("Mul", original(self, g, scores), g.scalar(0.5))


def next_slot(original: Any, self: Any, g: Any, slots: Any, heads: Any) -> Any:
    return original(self, g, g.op("Add", slots, g.integers(1)), heads)


MUTANTS: dict[str, tuple[str, Any, str, Callable[..., Any], str]] = {
    "attention of another scale": ("fp16", FusedProduct, "attend", of_another_scale, "vision.opset24, layer 0"),
    "rows that see what follows": ("fp16", FusedProduct, "step_mask", blind, "lower.opset24, layer 0"),
    "rotary tables swapped": ("fp16", PlainDialect, "rotate", swapped, "vision.plain, layer 0"),
    "another epsilon": ("fp32", PlainDialect, "rms_norm", other_eps, "vision.plain, layer 2"),
    "rows in another slot": ("fp32", PlainDialect, "write_index", next_slot, "lower.plain, layer 0"),
    "half the glimpse": ("bf16", DecoderAuthor, "_glimpse_attention", half_attention, "lower.opset24, layer 3"),
}


@pytest.mark.parametrize("name", few(MUTANTS, ["rotary tables swapped", "rows in another slot"]))
def test_a_wrong_graph_is_named(name: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precision, owner, attribute, change, expected = MUTANTS[name]
    dialect = "plain" if "plain" in expected else "opset24"
    with monkeypatch.context() as patch:
        sabotage(patch, owner, attribute, change)
        bundle = write(golden, tmp_path / "bundle", precision, dialects=(dialect,))
    with pytest.raises(CertificateError, match=f"{expected}: .*_error is"):
        bundle.certify()


@pytest.mark.slow
def test_a_wrong_order_of_kept_rows_is_found(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsorted(original: Any, caller: Any, context: int, names: Any) -> Any:
        function = original(caller, context, names)
        for node in function:
            if node.op_type == "Where":  # kept rows count as dropped ones
                node.replace_input_with(1, node.inputs[2])
        return function

    with monkeypatch.context() as patch:
        sabotage(patch, compact, "compact_many", unsorted)
        bundle = write(golden, tmp_path / "bundle")
    with pytest.raises(CertificateError, match=r"compact\.opset24: different_rows"):
        bundle.certify()


@slow
def test_prompts_are_left_out_that_a_cache_of_fixed_length_does_not_hold(golden: Path, tmp_path: Path) -> None:
    found = write(golden, tmp_path / "short", max_context=100, max_visual_tokens=80).certify("full")
    assert found.passed
    tokens = {check.stage: check.value for check in found.checks if check.measure == "tokens"}
    assert tokens == {"decode.opset24": 24, "decode.plain": 24}, "three prompts of four have room for eight words"
    with pytest.raises(CertificateError, match="prompts that fit into a context of 20 rows"):
        write(golden, tmp_path / "shorter", max_context=20, max_visual_tokens=10).certify()


def test_bfloat16_is_computed_as_a_gpu_does() -> None:
    """Operands are rounded, sums are float32, the result is rounded once."""
    ort = pytest.importorskip("onnxruntime")
    import ml_dtypes

    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 40)).astype(np.float32), rng.standard_normal((40, 5)).astype(ml_dtypes.bfloat16)
    make = onnx.helper.make_node
    nodes = [
        make("Cast", ["x"], ["half"], to=BFLOAT16),
        make("MatMul", ["half", "w"], ["product"]),
        make("Cast", ["product"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    weight = onnx.numpy_helper.from_array(w, "w")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    graph = onnx.helper.make_graph(without_bfloat16(nodes, {"w"}), "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    (found,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    exact = x.astype(ml_dtypes.bfloat16).astype(np.float64) @ w.astype(np.float64)
    assert np.abs(found - exact).max() <= np.abs(exact).max() * 2**-8
    assert np.array_equal(found, found.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert (found != exact.astype(np.float32)).any()
