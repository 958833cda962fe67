"""What the two stand-in modules consist of; they differ in name and version alone."""

from typing import Any

from fake_trt import builder, parser, runtime, types
from fake_trt.registry import IPluginRegistry

_RUNTIME_NAMES = ("CudaGraphStrategy", "ExecutionContextAllocationStrategy", "TensorLocation")
_TYPE_NAMES = (
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "ILogger",
    "IStreamWriter",
    "LayerType",
    "Logger",
    "NetworkDefinitionCreationFlag",
)


def content(name: str, version: str) -> dict[str, Any]:
    """Returns the names of a module that calls itself ``name``, with a plugin registry of its own."""
    registry = IPluginRegistry()
    own = {"settings": types.Settings(name, version), "registry": registry}
    return {
        "__version__": version,
        "Builder": type("Builder", (builder.Builder,), own),
        "OnnxParser": type("OnnxParser", (parser.OnnxParser,), own),
        "Runtime": type("Runtime", (runtime.Runtime,), own),
        "get_plugin_registry": lambda: registry,
        **{each: getattr(runtime, each) for each in _RUNTIME_NAMES},
        **{each: getattr(types, each) for each in _TYPE_NAMES},
    }
