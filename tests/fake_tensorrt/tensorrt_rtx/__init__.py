"""Stands in for the module ``tensorrt_rtx``; see ``fake_trt``."""

import os

from fake_trt import builder, parser, runtime
from fake_trt.registry import IPluginRegistry
from fake_trt.runtime import (  # noqa: F401
    CudaGraphStrategy,
    ExecutionContextAllocationStrategy,
    TensorLocation,
)
from fake_trt.types import (  # noqa: F401
    BuilderFlag,
    ComputeCapability,
    DataType,
    ILogger,
    IStreamWriter,
    LayerType,
    Logger,
    NetworkDefinitionCreationFlag,
    Settings,
)

__version__ = os.environ.get("FAKE_TENSORRT_RTX", "1.7.1")

_SETTINGS = Settings("tensorrt_rtx", __version__)
_REGISTRY = IPluginRegistry()


class Builder(builder.Builder):
    settings = _SETTINGS


class OnnxParser(parser.OnnxParser):
    settings = _SETTINGS
    registry = _REGISTRY


class Runtime(runtime.Runtime):
    settings = _SETTINGS
    registry = _REGISTRY


def get_plugin_registry() -> IPluginRegistry:
    return _REGISTRY
