"""A plugin in Python in place of the compiled one: what TensorRT-RTX asks of a plugin while it builds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorrt_rtx as trt

NAME, NAMESPACE, VERSION = "CompactMany", "glimpse", "1"


class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):  # type: ignore[misc]
    """Shapes and types of the compaction operator; it computes nothing."""

    def __init__(self, buffers: int) -> None:
        for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
            base.__init__(self)
        self.plugin_name, self.plugin_namespace, self.plugin_version = NAME, NAMESPACE, VERSION
        self.num_outputs = 3 + buffers
        self._buffers = buffers

    def get_capability_interface(self, kind: object) -> "Plugin":
        return self

    def get_output_data_types(self, inputs: list[Any]) -> list[Any]:
        return [trt.DataType.INT32, *inputs[1:]]

    def get_output_shapes(self, inputs: list[Any], shape_inputs: object, build: Any) -> list[Any]:
        rows = inputs[0][0]
        count = build.declare_size_tensor(0, rows, rows)
        scalar = trt.DimsExprs(0)
        hidden, positions = trt.DimsExprs(inputs[1]), trt.DimsExprs(inputs[2])
        hidden[1] = positions[1] = count
        return [scalar, hidden, positions, *inputs[3:]]

    def supports_format_combination(self, position: int, tensors: object, inputs: int) -> bool:
        return True

    def configure_plugin(self, inputs: object, outputs: object) -> None: ...

    def get_fields_to_serialize(self) -> Any:
        return trt.PluginFieldCollection([])

    def attach_to_context(self, context: object) -> "Plugin":
        return self.clone()

    def set_tactic(self, tactic: int) -> None: ...

    def get_valid_tactics(self) -> list[int]:
        return []

    def on_shape_change(self, inputs: object, outputs: object) -> None: ...

    def enqueue(self, *arguments: object) -> int:
        return 0

    def clone(self) -> "Plugin":
        return Plugin(self._buffers)


class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
    """Makes the plugin from a node's attributes."""

    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = NAME, NAMESPACE, VERSION
        fields = [trt.PluginField("buffers"), trt.PluginField("in_place")]
        self.field_names = trt.PluginFieldCollection(fields)

    def create_plugin(self, name: str, fields: Any, phase: object) -> Plugin:
        (buffers,) = [int(field.data[0]) for field in fields if field.name == "buffers"]
        return Plugin(buffers)


CREATOR = Creator()


@contextmanager
def registered() -> Iterator[None]:
    """Makes TensorRT-RTX know the plugin for the length of the block."""
    registry = trt.get_plugin_registry()
    assert registry.register_creator(CREATOR, NAMESPACE)
    try:
        yield
    finally:
        assert registry.deregister_creator(CREATOR)
