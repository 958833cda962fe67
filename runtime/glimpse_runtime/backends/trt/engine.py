"""One TensorRT engine: inputs and outputs by address, the KV cache updated in place or by turns."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.device_memory import DeviceMemory, DeviceTensor, device
from glimpse_runtime.backends.trt.context import ALIGNMENT, Context, Workspace
from glimpse_runtime.backends.trt.in_flight import InFlight
from glimpse_runtime.backends.trt.messages import Messages
from glimpse_runtime.backends.trt.source import Source
from glimpse_runtime.backends.trt.step import Step
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.manifest import StageSpec, TensorSpec
from glimpse_runtime.memory import ITEM_BYTES

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Shared:
    """What the engines of one backend have in common.

    Attributes:
        memory: device memory and the stream.
        workspace: scratch memory of all contexts.
        messages: what TensorRT said.
        in_flight: how far the host is ahead of the device.
    """

    memory: DeviceMemory
    workspace: Workspace
    messages: Messages
    in_flight: InFlight


class TrtEngine:
    """An engine with its contexts, buffers and state.

    Every input that comes from the host, and every output, has a buffer of the largest size that the profile allows.
    A state tensor that the engine cannot update in place has two buffers, and every run goes from one to the other:
    a run must not write where it still reads.
    """

    def __init__(self, shared: Shared, source: Source, stage: StageSpec, state: Mapping[str, Tensor]) -> None:
        """Allocates buffers.

        Args:
            shared: what all engines have in common.
            source: the engine.
            stage: its inputs and outputs as the manifest lists them.
            state: see ``Backend.load``.

        Raises:
            BackendError: the engine is not one of this stage.
        """
        self.shared = shared
        self.source = source
        self._state = {name: device(tensor) for name, tensor in state.items()}
        self.inputs = [spec for spec in stage.inputs if not _names_state(spec, "past.", state)]
        self.outputs = [spec for spec in stage.outputs if not _names_state(spec, "present.", state)]
        _check_tensors(source, stage)
        self._ranges = _ranges(source.engine, self.inputs)
        self._back = {
            name: shared.memory.empty(tensor.shape, tensor.dtype)
            for name, tensor in self._state.items()
            if not self.updates_in_place(name)
        }
        self._turn = 0
        self._contexts: dict[int, Context] = {}
        self._steps: list[Step] = []
        self._staged: dict[str, DeviceTensor] = {}
        self._results: dict[str, DeviceTensor] = {}
        shared.workspace.need(source.engine.device_memory_size_v2)
        self._allocate_results()

    @property
    def turn(self) -> int:
        """Which of the two buffers of its state tensors comes first, 0 or 1; always 0 if all are updated in place."""
        return self._turn

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Enqueues a run; see ``Engine.run``. The call does not wait for it, but for the run before the last one."""
        shared = self.shared
        shared.in_flight.wait(interrupt)
        placed = {spec.name: self._place(spec, inputs) for spec in self.inputs}
        shapes = {name: tensor.shape for name, tensor in placed.items()}
        context = self._context(self.profile_for(shapes))
        context.set_shapes(shapes)
        for name, tensor in placed.items():
            context.bind(name, tensor.address)
        self.bind_state(context)
        results: dict[str, Tensor] = {}
        copies = []
        for spec in self.outputs:
            given = (outputs or {}).get(spec.name)
            bound = self.bind_output(context, spec, None if given is None else device(given))
            results[spec.name] = bound if given is None else given
            if given is not None and bound is not given:
                copies.append((bound, given))
        context.enqueue(shared.memory.cuda.stream)
        for bound, given in copies:
            shared.memory.copy(bound, given)
        self.take_turns()
        shared.in_flight.record()
        return results

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds once, and captures the run in a CUDA graph; see ``Engine.prepare``."""
        step = Step(self, inputs, outputs)
        self._steps.append(step)
        return step

    def close(self) -> None:
        """Waits for its runs and drops graphs, contexts, engine and buffers, in this order."""
        self.shared.memory.cuda.drain()
        for step in self._steps:
            step.close()
        for context in self._contexts.values():
            context.close()
        self.source.close()
        self._steps, self._contexts = [], {}
        for buffers in (self._state, self._back, self._staged, self._results):
            buffers.clear()

    def new_context(self, profile: int, for_step: bool) -> Context:
        """Returns a context on a profile."""
        shared, source = self.shared, self.source
        raw = source.make_context(for_step)
        return Context(raw, source.title, profile, shared.workspace, shared.messages, shared.memory.cuda.stream)

    def profile_for(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the number of the narrowest profile that holds the shapes; later ones are narrower.

        Raises:
            BackendError: none does.
        """
        for number in reversed(range(len(self._ranges))):
            if all(_fits(shape, *self._ranges[number][name]) for name, shape in shapes.items()):
                return number
        for name, shape in shapes.items():
            if not any(_fits(shape, *ranges[name]) for ranges in self._ranges):
                allowed = " or ".join(f"{low}..{high}" for low, high in (ranges[name] for ranges in self._ranges))
                raise BackendError(f"{self.source.title}: input {name!r} of shape {shape} is outside of {allowed}")
        raise BackendError(f"{self.source.title}: no profile holds the shapes {dict(shapes)} together")

    def updates_in_place(self, name: str) -> bool:
        """Whether the engine writes a state tensor where it reads it; it then must."""
        return self.source.aliases.get(f"present.{name}") == f"past.{name}"

    def largest(self, name: str) -> tuple[int, ...]:
        """Returns the largest shape that an input may have."""
        return max((ranges[name][1] for ranges in self._ranges), key=math.prod)

    def bind_state(self, context: Context) -> None:
        """Binds the state tensors."""
        for name, tensor in self._state.items():
            context.bind(f"past.{name}", tensor.address)
            context.bind(f"present.{name}", self._back.get(name, tensor).address)

    def bind_output(self, context: Context, spec: TensorSpec, target: DeviceTensor | None) -> DeviceTensor:
        """Binds an output to a target, or where that is none or not aligned to the engine's own buffer."""
        shape = context.shape(spec.name)
        if min(shape, default=1) < 0:
            if target is None:
                raise BackendError(f"{self.source.title}: the length of output {spec.name!r} depends on the input")
            bound = target
        else:
            if target is not None and target.nbytes != math.prod(shape) * ITEM_BYTES[spec.dtype]:
                raise BackendError(
                    f"{self.source.title}: output {spec.name!r} of shape {shape} does not fit one of {target.shape}"
                )
            aligned = target is not None and target.address % ALIGNMENT == 0
            bound = target if target is not None and aligned else self._result(spec, shape)
        context.bind(spec.name, bound.address)
        return bound

    def take_turns(self) -> None:
        """Makes what a run wrote the state that the next one reads."""
        for name, back in self._back.items():
            front = self._state[name]
            front.address, back.address = back.address, front.address
            front.owner, back.owner = back.owner, front.owner
        if self._back:
            self._turn = 1 - self._turn

    def _place(self, spec: TensorSpec, inputs: Mapping[str, Tensor]) -> DeviceTensor:
        """Returns an input on the device, at an aligned address."""
        if spec.name not in inputs:
            raise BackendError(f"{self.source.title}: input {spec.name!r} was not given")
        given = inputs[spec.name]
        if isinstance(given, DeviceTensor) and given.address % ALIGNMENT == 0:
            return given
        if isinstance(given, np.ndarray):
            given = np.ascontiguousarray(given, spec.dtype)
        if spec.name not in self._staged:
            self._staged[spec.name] = self.shared.memory.empty(self.largest(spec.name), spec.dtype)
        buffer = self._staged[spec.name]
        part = DeviceTensor(buffer.address, tuple(given.shape), spec.dtype, buffer.owner)
        if part.nbytes > buffer.nbytes:
            self.profile_for({spec.name: part.shape})
        self.shared.memory.copy(given, part)
        return part

    def _context(self, profile: int) -> Context:
        if profile not in self._contexts:
            self._contexts[profile] = self.new_context(profile, for_step=False)
        return self._contexts[profile]

    def _result(self, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceTensor:
        count = math.prod(shape)
        buffer = self._results.get(spec.name)
        if buffer is None or math.prod(buffer.shape) < count:
            buffer = self._results[spec.name] = self.shared.memory.empty((count,), spec.dtype)
        return DeviceTensor(buffer.address, shape, spec.dtype, buffer.owner)

    def _allocate_results(self) -> None:
        """Allocates outputs at the size that the first profile, the widest, gives them at most."""
        context = self._context(0)
        context.set_shapes({name: high for name, (_, high) in self._ranges[0].items()})
        for spec in self.outputs:
            shape = context.shape(spec.name)
            if min(shape, default=1) >= 0:
                self._result(spec, shape)


def _names_state(spec: TensorSpec, prefix: str, state: Mapping[str, Tensor]) -> bool:
    return spec.name.startswith(prefix) and spec.name[len(prefix) :] in state


def _fits(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return len(shape) == len(low) and all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True))


def _ranges(raw: Any, inputs: list[TensorSpec]) -> list[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Smallest and largest shape of every input, by profile."""
    ranges = []
    for profile in range(raw.num_optimization_profiles):
        found = {}
        for spec in inputs:
            shapes = [tuple(shape) for shape in raw.get_tensor_profile_shape(spec.name, profile)]
            found[spec.name] = shapes[0], shapes[-1]
        ranges.append(found)
    return ranges


def _check_tensors(source: Source, stage: StageSpec) -> None:
    """Compares names and types of the engine's tensors with the manifest's."""
    raw = source.engine
    names = [raw.get_tensor_name(index) for index in range(raw.num_io_tensors)]
    found = {name: _DTYPES.get(raw.get_tensor_dtype(name).name, "unknown") for name in names}
    expected = {spec.name: spec.dtype for spec in (*stage.inputs, *stage.outputs)}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise BackendError(
                f"{source.title}: tensor {name!r} is {found.get(name, 'missing')} in the engine and "
                f"{expected.get(name, 'missing')} in the manifest; build the engine again"
            )
    for name in names:
        if raw.get_tensor_location(name).name != "DEVICE":
            raise BackendError(
                f"{source.title}: tensor {name!r} is read from memory of the host, which is not supported"
            )
