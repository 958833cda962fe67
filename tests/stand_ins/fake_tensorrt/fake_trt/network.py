"""Networks, their layers and tensors."""

from collections.abc import Sequence

from fake_trt.types import DataType, LayerType, NetworkDefinitionCreationFlag, Settings


class ITensor:
    def __init__(self, name: str, dtype: DataType, shape: Sequence[int | str] | None) -> None:
        self.name = name
        self.dtype = dtype
        self._dims = shape
        self.is_shape_tensor = False

    @property
    def shape(self) -> tuple[int, ...]:
        if self._dims is None:
            raise ValueError("__len__() should return >= 0")
        return tuple(dim if isinstance(dim, int) else -1 for dim in self._dims)

    def get_dimension_name(self, index: int) -> str | None:
        dim = self._dims[index] if self._dims is not None else None
        return dim if isinstance(dim, str) else None


class ILayer:
    def __init__(
        self, name: str, kind: LayerType, inputs: Sequence[ITensor | None], outputs: Sequence[ITensor]
    ) -> None:
        self.name = name
        self.type = kind
        self._inputs, self._outputs = list(inputs), list(outputs)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor | None:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, settings: Settings, flags: int) -> None:
        always = settings.is_rtx or settings.numbers >= (11,)
        self.strongly_typed = always or bool(flags & 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []
        self.layers: list[ILayer] = []
        self.graph = ""

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        return flag == NetworkDefinitionCreationFlag.STRONGLY_TYPED and self.strongly_typed

    def aliases(self) -> dict[str, str]:
        """Outputs that are an input updated in place."""
        inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (self.inputs, self.outputs))
        found = {}
        for layer in self.layers:
            source = layer.get_input(0) if layer.type == LayerType.KV_CACHE_UPDATE else None
            target = layer.get_output(0)
            if source is not None and target is not None and source.name in inputs and target.name in outputs:
                found[target.name] = source.name
        return found
