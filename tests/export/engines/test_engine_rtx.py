"""All graphs of pocket become engines of the real TensorRT-RTX, ahead of time and without a GPU."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_manifest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from onnx import ModelProto, TensorProto, helper
from support import engine_graphs as graphs

from glimpse_export import ExportOptions, export
from glimpse_export.engines import builder
from glimpse_export.engines.build import build as building
from glimpse_export.engines.build import checks
from glimpse_export.engines.build.build import build_engine
from glimpse_export.engines.build.parse import parse
from glimpse_export.engines.build.report import NetworkReport, read_network
from glimpse_export.engines.builder import build_engines
from glimpse_export.engines.options import BuildOptions
from glimpse_export.errors import BuildError
from glimpse_export.weights.precision import Precision
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import MANIFEST_NAME
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.log import Messages, make_logger
from glimpse_runtime.engines.store import EngineRecord, find_engine, report_file

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]
LAYERS = {"lower": 3, "upper": 3}
VISION_BLOCKS = 4
CASES = [
    *(("opset24", precision) for precision in ("fp32", "fp16", "bf16", "int8", "int4")),
    *(("plain", precision) for precision in ("fp32", "fp16", "bf16", "int8", "int4")),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pocket in both dialects, by precision; exported when asked for."""
    made: dict[str, Path] = {}

    class Bundles(dict[str, Path]):
        def __missing__(self, precision: str) -> Path:
            chosen = Precision.choose(precision, gpu=True)
            options = ExportOptions("pocket", dialects=("opset24", "plain"), precision=chosen, certify="off")
            self[precision] = export(options, tmp_path_factory.mktemp(precision) / "pocket")
            return self[precision]

    return Bundles(made)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for this file's engines, and no GPU even where there is one."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path_factory.getbasetemp() / "rtx-cache"))
    monkeypatch.setattr(builder, "current_gpu", lambda: None)


def build(bundle: Path, dialect: str) -> dict[str, EngineRecord]:
    options = BuildOptions("tensorrt-rtx", dialect=dialect, plugin=False)
    engines = build_engines(bundle, options, lambda line: None)
    return {engine.record.key.stage: engine.record for engine in engines}


@pytest.mark.parametrize(("dialect", "precision"), CASES)
def test_every_graph_of_pocket_becomes_an_engine(bundles: dict[str, Path], dialect: str, precision: str) -> None:
    manifest = Bundle.open(bundles[precision]).manifest
    records = build(bundles[precision], dialect)
    assert set(records) == set(manifest.stages_of(dialect)) - {"vision_update"}
    assert set(records) == {"vision", "lower", "score", "compact", "upper"}
    for stage, record in records.items():
        assert record.profiles == ("wide",)
        assert record.engine.bytes > 100_000
        assert record.seconds["build"] > 0
        assert "PLUGIN_V3" not in record.layers
        assert find_engine(record.key) is not None
        report = json.loads(report_file(record.key).read_text())
        assert [tensor["name"] for tensor in report["inputs"]] == [
            tensor.name for tensor in manifest.stages_of(dialect)[stage].inputs
        ]
        assert report["strongly_typed"] is True
    for stage, layers in LAYERS.items():
        found, aliases = records[stage].layers, records[stage].aliases
        present = [t.name for t in manifest.stages_of(dialect)[stage].outputs if t.name.startswith("present.")]
        assert len(present) == 2 * layers
        if dialect == "opset24":
            assert found["KV_CACHE_UPDATE"] == 2 * layers
            assert found["ROTARY_EMBEDDING"] == 2 * layers
            assert aliases == {name: name.replace("present.", "past.") for name in present}
        else:
            assert found["SCATTER"] == 2 * layers
            assert aliases == {}
        assert ("DEQUANTIZE" in found) == (precision in ("int8", "int4"))
        # The parser itself takes attention apart in float32.
        fused = dialect == "opset24" and precision != "fp32"
        assert found.get("ATTENTION_OUTPUT", 0) == (layers if fused else 0)
    assert records["vision"].layers["MATRIX_MULTIPLY"] >= VISION_BLOCKS * 7


def test_the_report_has_the_precision_of_every_product(bundles: dict[str, Path]) -> None:
    record = build(bundles["fp16"], "opset24")["lower"]
    layers = json.loads(report_file(record.key).read_text())["layers"]
    products = [layer for layer in layers if layer["type"] == "MATRIX_MULTIPLY"]
    halves = [layer for layer in products if layer["inputs"][0]["dtype"] == "float16"]
    assert len(halves) == LAYERS["lower"] * 7, "query, key, value, output, gate, up, down"


def test_a_precision_that_is_not_the_manifests_is_found(bundles: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundles["fp16"], other)
    manifest = json.loads((other / MANIFEST_NAME).read_text())
    manifest["precision"] |= {"lower": "bf16", "lower_attention": "bf16"}
    write_manifest(other, manifest)
    # The key knows nothing of what the manifest says about precision: the graph's content says it.
    shutil.rmtree(Path(os.environ["GLIMPSE_CACHE"]) / "engines", ignore_errors=True)
    with pytest.raises(BuildError, match="multiplies its weights in fp16, the manifest says bf16"):
        build(other, "opset24")


# Traps, on the real parser.


def network_of(made: ModelProto, folder: Path, plugin: bool = False) -> tuple[NetworkReport, Any, Any, Any]:
    found, messages = installed("tensorrt-rtx"), Messages()
    logger = make_logger(found.module, messages)
    made_builder = found.module.Builder(logger)
    parsed = parse(found, made_builder, logger, messages, graphs.save(made, folder), plugin)
    return read_network(found.module, parsed.network), parsed, made_builder, messages


def test_the_parser_ignores_an_input_and_the_check_finds_it(tmp_path: Path) -> None:
    report, *_ = network_of(graphs.attention(ignored=True), tmp_path)
    with pytest.raises(BuildError, match="input 'lengths' counts for no output"):
        checks.check_consumed(report, "lower")
    report, *_ = network_of(graphs.attention(ignored=False), tmp_path)
    checks.check_consumed(report, "lower")


def test_what_the_parser_refuses_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Compress", ["x", "keep"], ["y"], name="choose", axis=0)
    inputs = [graphs.value("x", ["rows", 4]), graphs.value("keep", ["rows"], TensorProto.BOOL)]
    made = graphs.model([node], inputs, [graphs.value("y", ["kept", 4])])
    with pytest.raises(BuildError) as caught:
        network_of(made, tmp_path)
    assert str(caught.value).startswith("TensorRT-RTX 1.7")
    assert "node 'choose' (Compress)" in str(caught.value)


def test_what_cannot_be_built_comes_with_the_builders_words(tmp_path: Path) -> None:
    """Without a profile for a dynamic input."""
    _, parsed, made_builder, messages = network_of(graphs.product(), tmp_path)
    assert made_builder.build_serialized_network(parsed.network, made_builder.create_builder_config()) is None
    assert "profile" in str(messages)


def test_an_update_in_place_is_an_alias(tmp_path: Path) -> None:
    report, *_ = network_of(graphs.cache_update(), tmp_path)
    assert report.aliases == {"present.0.key": "past.0.key"}


# Compaction.


@pytest.fixture
def compaction(tmp_path: Path) -> Path:
    """The compact stage of a small model."""
    from glimpse_export.graphs.builder import GraphBuilder
    from glimpse_export.graphs.compact import CompactAuthor
    from glimpse_export.weights.file import WeightLayout

    g = GraphBuilder("compact", WeightLayout(tmp_path / "none"), 24)
    CompactAuthor(3, 16, (1, 2, 64, 8), np.dtype("float16")).author(g)
    g.save(tmp_path / "compact.onnx")
    return tmp_path / "compact.onnx"


def compact_with(plugin: bool, graph: Path) -> NetworkReport:
    """Parses, checks and builds the stage."""
    found, messages = installed("tensorrt-rtx"), Messages()
    logger = make_logger(found.module, messages)
    made_builder = found.module.Builder(logger)
    parsed = parse(found, made_builder, logger, messages, graph, plugin)
    report = read_network(found.module, parsed.network)
    checks.check_consumed(report, "compact")
    checks.check_compaction(report, "compact", plugin)
    config = made_builder.create_builder_config()
    profile = made_builder.create_optimization_profile()
    for tensor in report.inputs:
        assert tensor.shape is not None
        if -1 in tensor.shape:
            shapes = [tuple(rows if dim == -1 else dim for dim in tensor.shape) for rows in (1, 16, 64)]
            profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    assert made_builder.build_serialized_network(parsed.network, config) is not None, messages
    return report


def test_compaction_without_the_plugin_is_the_function(compaction: Path) -> None:
    report = compact_with(False, compaction)
    assert "PLUGIN_V3" not in report.types
    assert report.types["CUMULATIVE"] == 1


def test_compaction_with_a_plugin_is_one_layer(compaction: Path) -> None:
    installed("tensorrt-rtx")
    from stand_ins import rtx_plugin

    with rtx_plugin.registered():
        assert compact_with(True, compaction).types == {"PLUGIN_V3": 1}
        assert "PLUGIN_V3" not in compact_with(False, compaction).types, "registered, and not asked for"


def test_compaction_with_the_compiled_plugin_is_one_layer(bundles: dict[str, Path]) -> None:
    """Compiled, loaded and built with in a process of its own, as on a device."""
    options = BuildOptions("tensorrt-rtx", dialect="opset24", plugin=True)
    try:
        engines = build_engines(bundles["fp16"], options, lambda line: None)
    except BuildError as error:
        if "cannot be compiled" not in str(error):
            raise
        pytest.skip(str(error).splitlines()[0])
    (compact,) = [engine.record for engine in engines if engine.record.key.stage == "compact"]
    assert compact.layers == {"PLUGIN_V3": 1}
    assert compact.key.compaction.startswith("plugin ")


def test_the_compact_stage_of_a_bundle_with_a_plugin(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole of the build, in this process, with the plugin in Python."""
    from glimpse_export.engines.plugin import Plugin

    installed("tensorrt-rtx")
    from stand_ins import rtx_plugin

    monkeypatch.setattr(building, "load_plugin", lambda found, library: None)
    monkeypatch.setattr(builder, "find_plugin", lambda *arguments: Plugin(Path("in Python"), "sources"))
    monkeypatch.setattr(builder, "build_apart", lambda job: build_engine(installed(job.target), job))
    options = BuildOptions("tensorrt-rtx", dialect="opset24", plugin=True)
    with rtx_plugin.registered():
        engines = {e.record.key.stage: e.record for e in build_engines(bundles["fp16"], options, lambda line: None)}
    assert engines["compact"].layers == {"PLUGIN_V3": 1}
    assert engines["compact"].key.compaction == "plugin sources"
    assert engines["lower"].key.compaction == ""
