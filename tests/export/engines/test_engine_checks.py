"""What must be true of a network before it is built, on networks that a stand-in's parser made of real graphs."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from onnx import ModelProto, TensorProto, helper
from support import engine_graphs as graphs

from glimpse_export.engines.build import checks
from glimpse_export.engines.build.parse import load_plugin, parse
from glimpse_export.engines.build.prepare import prepare
from glimpse_export.engines.build.report import LayerInfo, NetworkReport, TensorInfo, read_network
from glimpse_export.errors import BuildError
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.engines.flavours import flavour_of, installed
from glimpse_runtime.engines.log import Messages, make_logger

VERSIONS = ("10.3.0", "10.9.0", "10.15.1", "11.1.0")
LIBRARY = "fake plugin library CompactMany 1 glimpse\n"


def network_of(
    made: ModelProto, folder: Path, plugin: bool = False, target: str = "tensorrt", library: str | None = None
) -> NetworkReport:
    """Parses a graph with the stand-in."""
    found, messages = installed(target), Messages()
    if plugin or library is not None:
        (folder / "plugin.so").write_text(library or LIBRARY)
        load_plugin(found, folder / "plugin.so")
    logger = make_logger(found.module, messages)
    builder = found.module.Builder(logger)
    parsed = parse(found, builder, logger, messages, graphs.save(made, folder), plugin)
    return read_network(found.module, parsed.network)


@pytest.fixture(autouse=True)
def stand_in(fake_tensorrt: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return fake_tensorrt


# Every input is consumed.


def test_an_ignored_input_is_found(tmp_path: Path) -> None:
    checks.check_consumed(network_of(graphs.attention(ignored=False), tmp_path), "lower")
    with pytest.raises(BuildError, match="lower: input 'lengths' counts for no output: TensorRT ignores it"):
        checks.check_consumed(network_of(graphs.attention(ignored=True), tmp_path), "lower")


def test_an_input_whose_shape_alone_counts_is_found(tmp_path: Path) -> None:
    nodes = [helper.make_node("Shape", ["mask"], ["length"], name="shape")]
    inputs = [graphs.value("mask", ["rows"], TensorProto.BOOL)]
    made = graphs.model(nodes, inputs, [graphs.value("length", [1], TensorProto.INT64)])
    with pytest.raises(BuildError, match="input 'mask'"):
        checks.check_consumed(network_of(made, tmp_path), "compact")


def test_an_input_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"], name="used"),
        helper.make_node("Sigmoid", ["gate"], ["dead"], name="unused"),
    ]
    inputs = [graphs.value("x", ["rows"]), graphs.value("gate", ["rows"])]
    made = graphs.model(nodes, inputs, [graphs.value("y", ["rows"])])
    with pytest.raises(BuildError, match="input 'gate'"):
        checks.check_consumed(network_of(made, tmp_path), "lower")


# Plugin or function.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("nested", [False, True])
def test_the_operator_becomes_what_was_asked_for(
    stand_in: pytest.MonkeyPatch, tmp_path: Path, version: str, nested: bool
) -> None:
    stand_in.setenv("FAKE_TENSORRT", version)
    asked = network_of(graphs.compaction(nested), tmp_path, plugin=True)
    assert [layer.type for layer in asked.layers] == ["PLUGIN_V3"]
    checks.check_compaction(asked, "compact", True)
    with pytest.raises(BuildError, match="became a PLUGIN_V3 layer, though none was asked for"):
        checks.check_compaction(asked, "compact", False)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_plugin_the_function_serves(stand_in: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    stand_in.setenv("FAKE_TENSORRT", version)
    function = network_of(graphs.compaction(), tmp_path)
    checks.check_compaction(function, "compact", False)
    with pytest.raises(BuildError, match=r"CompactMany did not become a PLUGIN_V3 layer .* --no-plugin"):
        checks.check_compaction(function, "compact", True)


def test_a_graph_without_the_operator_has_no_plugin(tmp_path: Path) -> None:
    checks.check_compaction(network_of(graphs.product(), tmp_path), "lower", None)


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot load the compaction plugin .*plugin\.so; .* --no-plugin"):
        network_of(graphs.compaction(), tmp_path, plugin=True, library="ELF of another processor")
    with pytest.raises(BuildError, match="has no plugin CompactMany of version 1"):
        network_of(graphs.compaction(), tmp_path, plugin=True, library="fake plugin library CompactMany 2 glimpse")


def test_preparing_leaves_the_file_alone(tmp_path: Path) -> None:
    path = graphs.save(graphs.compaction(nested=True), tmp_path)
    before = path.read_bytes()
    made = prepare(path, flavour_of("tensorrt", "10.3"), plugin=True)
    assert path.read_bytes() == before
    assert [function.name for function in made.functions] == []
    (node,) = made.graph.node
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert given == {"plugin_namespace": b"glimpse", "plugin_version": b"1"}


def test_attention_may_be_taken_apart_where_it_is_a_layer(tmp_path: Path) -> None:
    path = graphs.save(graphs.attention(ignored=False), tmp_path)
    for version, expected in (("10.15", [1]), ("10.13", [])):
        made = prepare(path, flavour_of("tensorrt", version), plugin=False)
        found = [attribute.i for attribute in made.graph.node[0].attribute if attribute.name == "TRT_decomposable"]
        assert found == expected


# Types.


@pytest.mark.parametrize("version", VERSIONS)
def test_the_network_is_strongly_typed(tmp_path: Path, stand_in: pytest.MonkeyPatch, version: str) -> None:
    stand_in.setenv("FAKE_TENSORRT", version)
    flavour = flavour_of("tensorrt", version)
    checks.check_typed(network_of(graphs.product(), tmp_path), "lower", flavour)
    weak = dataclasses.replace(network_of(graphs.product(), tmp_path), strongly_typed=False)
    if not flavour.typed_by_flag:  # TensorRT 11 is not asked for it, and need not say so
        checks.check_typed(weak, "lower", flavour)
        return
    with pytest.raises(BuildError, match="lower: the network is not strongly typed"):
        checks.check_typed(weak, "lower", flavour)


SPEC = StageSpec(
    "stage.onnx",
    (TensorSpec("hidden_in", "float32", (1, "rows", 16)),),
    (TensorSpec("hidden_out", "float32", (1, "rows", 16)),),
)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (SPEC.inputs, None),
        ((TensorSpec("hidden_in", "float16", (1, "rows", 16)),), r"input 'hidden_in' .* became float32 \[1, -1, 16\]"),
        ((TensorSpec("hidden_in", "float32", (1, "rows", 8)),), r"the manifest says float32 \[1, rows, 8\]"),
        ((*SPEC.inputs, TensorSpec("slots", "int64", ("rows",))), "TensorRT dropped input 'slots'"),
        ((), "TensorRT added input 'hidden_in'"),
    ],
)
def test_the_interface_is_the_manifests(tmp_path: Path, inputs: tuple[TensorSpec, ...], message: str | None) -> None:
    report = network_of(graphs.product(), tmp_path)
    spec = dataclasses.replace(SPEC, inputs=inputs)
    if message is None:
        checks.check_interface(report, "lower", spec)
    else:
        with pytest.raises(BuildError, match=message):
            checks.check_interface(report, "lower", spec)


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "fp16"), ("bfloat16", "bf16"), ("float32", "fp32")])
def test_weights_are_multiplied_as_asked(tmp_path: Path, dtype: str, precision: str) -> None:
    report = network_of(graphs.product(dtype), tmp_path)
    checks.check_precision(report, "lower", [precision])
    other = "bf16" if precision == "fp16" else "fp16"
    with pytest.raises(BuildError, match=f"in {precision}, the manifest says {other}"):
        checks.check_precision(report, "lower", [other])
    checks.check_precision(report, "upper", [other, precision])


def test_float32_may_be_the_smaller_part(tmp_path: Path) -> None:
    checks.check_precision(network_of(graphs.product("float16", 128), tmp_path), "vision", ["fp16"])
    with pytest.raises(BuildError, match="vision: most weights are multiplied in fp32, the manifest says fp16"):
        checks.check_precision(network_of(graphs.product("float16", 512), tmp_path), "vision", ["fp16"])


def test_integer_weights_are_seen_through_their_scaling() -> None:
    stored, scale = TensorInfo("w", "int4", (128, 64)), TensorInfo("s", "float16", (1, 64))
    wide, cut = TensorInfo("d", "float16", (128, 64)), TensorInfo("r", "float16", (1, 128, 64))
    x, y = TensorInfo("x", "float16", (1, -1, 128)), TensorInfo("y", "float16", (1, -1, 64))
    layers = (
        LayerInfo("w", "CONSTANT", (), (stored,)),
        LayerInfo("s", "CONSTANT", (), (scale,)),
        LayerInfo("scale", "DEQUANTIZE", (stored, scale), (wide,)),
        LayerInfo("shape", "SHUFFLE", (wide,), (cut,)),
        LayerInfo("product", "MATRIX_MULTIPLY", (x, cut), (y,)),
    )
    report = NetworkReport((x,), (y,), layers, True)
    checks.check_precision(report, "lower", ["int4"])
    with pytest.raises(BuildError, match="layer 'product' multiplies its weights in int4, the manifest says int8"):
        checks.check_precision(report, "lower", ["int8"])


def test_products_of_activations_have_any_type(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["q", "k"], ["scores"], name="scores")]
    inputs = [graphs.value("q", ["rows", 8]), graphs.value("k", [8, "rows"])]
    made = graphs.model(nodes, inputs, [graphs.value("scores", ["rows", "rows"])])
    checks.check_precision(network_of(made, tmp_path), "lower", ["fp16"])


# The report.


def test_a_cache_updated_in_place_is_an_alias(tmp_path: Path) -> None:
    assert network_of(graphs.cache_update(), tmp_path).aliases == {"present.0.key": "past.0.key"}
    assert network_of(graphs.attention(ignored=False), tmp_path).aliases == {}


def test_the_report_lists_layers_and_tensors(tmp_path: Path) -> None:
    report = network_of(graphs.product(), tmp_path)
    assert report.types == {"CAST": 2, "CONSTANT": 1, "MATRIX_MULTIPLY": 1}
    product = next(layer for layer in report.layers if layer.name == "product")
    assert product.inputs[1] == TensorInfo("weight", "float16", (16, 16))
    assert report.inputs == (TensorInfo("hidden_in", "float32", (1, -1, 16)),)


# The parser's complaints.


def test_every_node_the_parser_refuses_is_named(stand_in: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in.setenv("FAKE_TENSORRT", "10.3.0")
    with pytest.raises(BuildError) as caught:
        network_of(graphs.attention(ignored=False), tmp_path)
    text = str(caught.value)
    assert text.startswith("TensorRT 10.3.0 cannot import stage.onnx:")
    assert "node 'attend' (Attention): No importer registered for op: Attention" in text
    assert "--dialect plain" in text


def test_a_graph_that_is_none_is_said_so(tmp_path: Path) -> None:
    made = graphs.product()
    made.graph.initializer[0].ClearField("float_data")
    made.graph.initializer[0].ClearField("int32_data")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = made.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "missing.data"
    with pytest.raises(BuildError, match=r"Failed to open external weights missing\.data"):
        network_of(made, tmp_path)
