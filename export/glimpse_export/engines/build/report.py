"""What TensorRT made of a graph, as plain data: read from the network before it is built, since engines hide it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_KV_CACHE_UPDATE = "KV_CACHE_UPDATE"
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    **{name: name.lower() for name in ("INT64", "INT32", "INT8", "INT4", "UINT8", "FP8", "FP4")},
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor; -1 is a dynamic length, and a shape of None a rank that is not known."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class LayerInfo:
    """One layer; an optional input that is not there is None."""

    name: str
    type: str
    inputs: tuple[TensorInfo | None, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class NetworkReport:
    """A parsed network.

    Attributes:
        inputs: its inputs.
        outputs: its outputs.
        layers: its layers in the order in which the parser made them.
        strongly_typed: whether every tensor has just the type that the graph says.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    strongly_typed: bool

    @property
    def types(self) -> dict[str, int]:
        """Number of layers by type, by name of the type."""
        return dict(sorted(Counter(layer.type for layer in self.layers).items()))

    @property
    def aliases(self) -> dict[str, str]:
        """The outputs that are an input updated in place, with that input: both must have one address."""
        inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (self.inputs, self.outputs))
        return {
            layer.outputs[0].name: layer.inputs[0].name
            for layer in self.layers
            if layer.type == _KV_CACHE_UPDATE and layer.inputs[0] is not None
            if layer.inputs[0].name in inputs and layer.outputs[0].name in outputs
        }


def read_network(trt: Any, network: Any) -> NetworkReport:
    """Reads a network that a parser has filled."""
    return NetworkReport(
        tuple(_tensor(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(_tensor(network.get_output(index)) for index in range(network.num_outputs)),
        tuple(_layers(network)),
        bool(network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
    )


def _layers(network: Any) -> Iterator[LayerInfo]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = (layer.get_input(i) for i in range(layer.num_inputs))
        outputs = (layer.get_output(i) for i in range(layer.num_outputs))
        yield LayerInfo(
            layer.name,
            layer.type.name,
            tuple(None if tensor is None else _tensor(tensor) for tensor in inputs),
            tuple(_tensor(tensor) for tensor in outputs if tensor is not None),
        )


def _tensor(tensor: Any) -> TensorInfo:
    try:
        shape = tuple(int(dim) for dim in tensor.shape)
    except ValueError:  # pybind cannot count the dimensions of an unknown rank
        shape = None
    return TensorInfo(tensor.name, _DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()), shape)
