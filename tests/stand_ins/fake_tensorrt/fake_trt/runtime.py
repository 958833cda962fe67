"""The part that runs engines: the graph an engine was built of, run by onnxruntime when the fake device comes to it.

What the original reports is reported in its way, by a log entry and ``False``. What it leaves undefined is an error.
"""

import json
import sys
from enum import IntEnum
from functools import cache
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import shape_inference

from fake_trt.types import DataType, ILogger, Settings, Severity

_ALIGNMENT = 256
_SCRATCH_BYTES = 4096
_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class IRuntimeCache:
    def __init__(self) -> None:
        self.data = b""

    def deserialize(self, blob: bytes) -> bool:
        if not bytes(blob).startswith(b"kernels"):
            return False
        self.data = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self.data or b"kernels"


class IRuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy


class Runtime:
    settings: ClassVar[Settings]
    registry: ClassVar[Any]

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> "ICudaEngine | None":
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(Severity.ERROR, "Serialization assertion header.magicTag failed")
            return None
        if (plan["module"], plan["version"]) != (self.settings.name, self.settings.version):
            self._logger.log(Severity.ERROR, f"the engine was built by {plan['module']} {plan['version']}")
            return None
        for plugin in plan["plugins"]:
            if self.registry.get_creator("CompactMany", "1", "glimpse") is None:
                self._logger.log(Severity.ERROR, f"no creator for the plugin of layer {plugin}")
                return None
        return ICudaEngine(plan, self.settings, self._logger)


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], settings: Settings, logger: ILogger) -> None:
        self.plan = plan
        self.logger = logger
        self._settings = settings
        self.inputs = {tensor["name"]: tensor for tensor in plan["inputs"]}
        self.outputs = {tensor["name"]: tensor for tensor in plan["outputs"]}
        self.profiles = [profile["shapes"] for profile in plan["profiles"]] or [{}]
        self.device_memory_size_v2 = _SCRATCH_BYTES

    num_io_tensors = property(lambda self: len(self.inputs) + len(self.outputs))
    num_optimization_profiles = property(lambda self: len(self.profiles))

    def tensor(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.inputs | self.outputs)[name]
        return found

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.tensor(name)["dtype"]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        fixed = self.inputs[name]["shape"]
        shapes = self.profiles[profile_index].get(name, [fixed] * 3)
        return [tuple(shape) for shape in shapes]

    def create_runtime_config(self) -> IRuntimeConfig:
        if not self._settings.is_rtx:
            raise AttributeError("only TensorRT-RTX compiles kernels at run time")
        return IRuntimeConfig()

    def create_execution_context(self, how: Any = ExecutionContextAllocationStrategy.STATIC) -> "IExecutionContext":
        if isinstance(how, IRuntimeConfig):
            return IExecutionContext(self, how.strategy, how)
        return IExecutionContext(self, how)


class IExecutionContext:
    """A context; ``runs`` counts what the device has done, not what was enqueued."""

    def __init__(
        self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy, config: IRuntimeConfig | None = None
    ) -> None:
        self.engine = engine
        self.config = config
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(tensor["shape"]) for name, tensor in engine.inputs.items() if -1 not in tensor["shape"]
        }
        self.addresses: dict[str, int] = {}
        self._strategy = strategy
        self._scratch: tuple[int, int] | None = None
        self.runs = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        _device().stream(stream_handle)
        if not 0 <= profile_index < len(self.engine.profiles):
            return self._refuse(f"there is no profile {profile_index}")
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"shape {shape} of {name} is outside of profile {self.profile}: {low}..{high}")
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.engine.inputs:
            return self.shapes.get(name, tuple(self.engine.inputs[name]["shape"]))
        if len(self.shapes) < len(self.engine.inputs):
            return tuple(self.engine.outputs[name]["shape"])
        return _output_shapes(self.engine.plan["graph"], tuple(sorted(self.shapes.items())))[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.inputs and name not in self.engine.outputs:
            return self._refuse(f"there is no tensor {name}")
        if memory % _ALIGNMENT:
            raise AssertionError(f"the address {memory:#x} of {name} is not a multiple of {_ALIGNMENT}")
        self.addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        fault = self._fault()
        if fault is not None:
            return self._refuse(fault)
        device, blocks = _device(), {}
        if self._scratch is not None:
            blocks[""] = device.find(self._scratch[0], _SCRATCH_BYTES, "scratch memory", "device")
        shapes = self.shapes | {name: self.get_tensor_shape(name) for name in self.engine.outputs}
        for name, address in self.addresses.items():
            size = 0 if -1 in shapes[name] else _bytes(shapes[name], self.engine.get_tensor_dtype(name))
            blocks[name] = device.find(address, size, f"tensor {name}", "device")
        self._require_apart(shapes)
        addresses = dict(self.addresses)
        ends = {name: block.start + block.size for name, block in blocks.items()}
        work = sys.modules["stand_ins.fake_cuda"].Work
        run = work("engine", list(blocks.values()), lambda: self._run(addresses, shapes, ends))
        device.enqueue(stream_handle, run)
        return True

    def _fault(self) -> str | None:
        engine = self.engine
        is_given = self._strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        if is_given and (self._scratch is None or self._scratch[1] < engine.device_memory_size_v2):
            return "the context has no device memory, or too little"
        for name in engine.inputs:
            if name not in self.shapes:
                return f"the shape of input {name} was not set"
        for name in (*engine.inputs, *engine.outputs):
            if not self.addresses.get(name):
                return f"the address of {name} was not set"
        for output, source in engine.plan["aliases"].items():
            if self.addresses[output] != self.addresses[source]:
                return f"{output} must lie where {source} lies"
        return None

    def _require_apart(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """No output may lie where an input or another output lies, unless it is that input updated in place."""
        aliases = self.engine.plan["aliases"]
        ranges = {}
        for name, address in self.addresses.items():
            size = 0 if -1 in shapes[name] else _bytes(shapes[name], self.engine.get_tensor_dtype(name))
            ranges[name] = address, address + size
        for output in self.engine.outputs:
            start, end = ranges[output]
            for name, (first, last) in ranges.items():
                is_same = name in (output, aliases.get(output))
                if not is_same and start < last and first < end:
                    raise AssertionError(f"output {output} overlaps {name}")

    def _run(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]], ends: dict[str, int]) -> None:
        view = sys.modules["stand_ins.fake_cuda"].view
        feed = {}
        for name in self.engine.inputs:
            kind = self.engine.get_tensor_dtype(name)
            data = view(addresses[name], _bytes(shapes[name], kind)).view(_NUMPY[kind])
            feed[name] = data.reshape(shapes[name]).copy()
        names = list(self.engine.outputs)
        for name, value in zip(names, _session(self.engine.plan["graph"]).run(names, feed), strict=True):
            array = np.ascontiguousarray(value)
            if addresses[name] + array.nbytes > ends[name]:
                raise AssertionError(f"output {name} of {array.nbytes} bytes reaches beyond its memory")
            view(addresses[name], array.nbytes)[:] = array.reshape(-1).view(np.uint8)
        self.runs += 1

    def _refuse(self, why: str) -> bool:
        self.engine.logger.log(Severity.ERROR, why)
        return False


def _device() -> Any:
    return sys.modules["stand_ins.fake_cuda"].current()


def _bytes(shape: tuple[int, ...], kind: DataType) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(_NUMPY[kind]).itemsize


@cache
def _session(graph: str) -> Any:
    import onnxruntime  # building engines must do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@cache
def _output_shapes(graph: str, inputs: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs as far as they follow from those of the inputs; -1 where they depend on numbers."""
    model, given = onnx.load(graph, load_external_data=False), dict(inputs)
    for value in model.graph.input:
        for dim, length in zip(value.type.tensor_type.shape.dim, given[value.name], strict=True):
            dim.dim_value = length
    del model.graph.value_info[:]
    names = {}
    for value in model.graph.output:
        names[value.name] = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
    found = shape_inference.infer_shapes(model, data_prop=True)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
        )
        for value in found.graph.output
    }
