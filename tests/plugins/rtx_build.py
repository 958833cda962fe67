"""Builds an engine of the compact stage with TensorRT-RTX on the CPU and prints what became of the graph as JSON.

python rtx_build.py GRAPH ROWS HIDDEN [--plugin LIBRARY] [--in-place] [--int32]

A process of its own: what goes wrong inside TensorRT may end it.
"""

import argparse
import json

import onnx
import tensorrt_rtx as trt


class Log(trt.ILogger):
    """Keeps what is worse than a piece of information."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.lines.append(message)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph")
    parser.add_argument("rows", type=int)
    parser.add_argument("hidden", type=int)
    parser.add_argument("--plugin")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--int32", action="store_true")
    asked = parser.parse_args()
    log = Log()
    model = onnx.load(asked.graph)
    if asked.int32:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    if asked.plugin:
        trt.get_plugin_registry().load_library(asked.plugin)
        (node,) = model.graph.node
        for attribute in node.attribute:
            attribute.i = int(asked.in_place) if attribute.name == "in_place" else attribute.i
        node.attribute.append(onnx.helper.make_attribute("plugin_namespace", "glimpse"))
        node.attribute.append(onnx.helper.make_attribute("plugin_version", "1"))
        del model.functions[:]
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser_ = trt.OnnxParser(network, log)
    parsed = parser_.parse(model.SerializeToString())
    layers = [str(network.get_layer(index).type).split(".")[-1] for index in range(network.num_layers)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    profile, most = builder.create_optimization_profile(), asked.rows
    profile.set_shape("keep", (1,), (most // 2,), (most,))
    profile.set_shape("hidden_in", (1, 1, asked.hidden), (1, most // 2, asked.hidden), (1, most, asked.hidden))
    profile.set_shape("positions", (3, 1), (3, most // 2), (3, most))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    if asked.in_place:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    engine = builder.build_serialized_network(network, config) if parsed else None
    found = {tensor.name: [str(tensor.dtype).split(".")[-1], list(tensor.shape)] for tensor in outputs}
    errors = [str(parser_.get_error(index)) for index in range(parser_.num_errors)]
    report = {"layers": layers, "outputs": found, "errors": errors, "log": log.lines}
    print(json.dumps({**report, "engine_bytes": 0 if engine is None else engine.nbytes}))


main()
